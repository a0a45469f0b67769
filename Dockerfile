# Everything that scripts/run_mario.sh installs, without a GPU: docker build -t mario .
FROM python:3.13-slim
WORKDIR /mario
# First what is installed, so that a change of the code alone does not install it again.
COPY pyproject.toml README.md LICENSE requirements.txt requirements-dev.txt requirements-pins.txt ./
COPY scripts/run_mario.sh scripts/front_door.py scripts/
RUN scripts/run_mario.sh --torch auto install
COPY . .
RUN .venv/bin/python -c "import fastnes; fastnes.warm_up()"
ENTRYPOINT ["scripts/run_mario.sh"]
CMD ["--help"]
