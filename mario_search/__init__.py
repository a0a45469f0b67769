"""Finding clears: from any snapshot of a stage to its goal, without a map, a reward or a player.

- `explore`: random play from an archive of snapshots, until one run reaches the goal;
- `ways`: what that play has seen of how places lead to each other, and how far the goal is;
- `beam`: a layered search over those distances, which shortens a clear and simplifies it;
- `noops`: few clears that together serve every start of the `noop` protocol;
- `level_data`, `stages`: the stage table, measured from the ROM and the running game.
"""
