"""What gym-super-mario-bros does to the running game, as reads and writes of RAM.

Its environment is the game plus these interventions, so they are part of what a step means:
`SuperMarioBrosEnv._did_step` and `_skip_start_screen` of version 9.1.0, for one stage at a time.
All functions take a state row, whose first 2,048 bytes are RAM.
"""

from fastnes.compiled import compiled
from fastnes.ram import (
    CHANGE_AREA_TIMER,
    ENEMY_BOWSER,
    ENEMY_FLAG,
    ENEMY_SLOTS_OF_GOAL,
    ENEMY_TYPE,
    FLOAT_ON_POLE,
    GAME_MODE,
    GAME_MODE_WORLD_OVER,
    PLAYER_DEAD,
    PLAYER_DYING,
    PLAYER_FLOAT_STATE,
    PLAYER_STATE,
    PLAYER_Y_PAGE,
    PRE_LEVEL_TIMER,
)


@compiled
def is_world_over(row):
    """Return whether Bowser or his axe ended the world."""
    return row[GAME_MODE] == GAME_MODE_WORLD_OVER


@compiled
def is_stage_over(row):
    """Return whether Mario is sliding down the pole (or standing on the axe's bridge)."""
    for slot in range(ENEMY_SLOTS_OF_GOAL):
        if row[ENEMY_TYPE + slot] == ENEMY_BOWSER or row[ENEMY_TYPE + slot] == ENEMY_FLAG:
            return row[PLAYER_FLOAT_STATE] == FLOAT_ON_POLE
    return False


@compiled
def is_terminated(row):
    """Return whether Mario is dying, dead, below the screen, or has finished the stage."""
    return (
        row[PLAYER_STATE] == PLAYER_DYING
        or row[PLAYER_Y_PAGE] > 1
        or row[PLAYER_STATE] == PLAYER_DEAD
        or is_world_over(row)
        or is_stage_over(row)
    )


@compiled
def skip_change_area(row):
    """Run out the timer of a change of area (a pipe, the flag)."""
    if 1 < row[CHANGE_AREA_TIMER] < 255:
        row[CHANGE_AREA_TIMER] = 1


@compiled
def is_occupied(row):
    """Return whether the game is busy with Mario, or with the end of a world.

    Player states 0-5 and 7: off screen, on a vine, in a pipe, walking by himself, entering.
    """
    state = row[PLAYER_STATE]
    return state <= 5 or state == 7 or is_world_over(row)


@compiled
def run_out_pre_level_timer(row):
    """End the black screen that shows world and lives."""
    row[PRE_LEVEL_TIMER] = 0
