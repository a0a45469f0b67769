# Everything that scripts/run_mario.sh installs, without a GPU: docker build -t mario .
FROM python:3.13-slim
WORKDIR /mario
COPY . .
RUN scripts/run_mario.sh install
ENTRYPOINT ["scripts/run_mario.sh"]
CMD ["--help"]
