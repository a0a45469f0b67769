"""The whole of one machine as a flat row of bytes.

A row is ``uint8[STATE_SIZE]``: RAM, video RAM, sprite memory, palette, then the registers as
64-bit integers. A snapshot is a copy of the row; a batch of n machines is ``uint8[n, STATE_SIZE]``.
The screen is not part of it: one frame call lasts at least as long as one picture, so every pixel
of a drawn frame is drawn within that call (see `frame.CYCLES_PER_FRAME`).
"""

import numpy as np

# --- memories: byte offsets into a row ------------------------------------------------------
RAM = 0  # CPU work RAM at $0000-$07FF; it comes first, so that row[address] is RAM
RAM_SIZE = 2048
VRAM = 2048  # two name tables (nesdev wiki, "PPU nametables")
VRAM_SIZE = 2048
OAM = 4096  # 64 sprites of 4 bytes: y, tile, attributes, x (nesdev wiki, "PPU OAM")
OAM_SIZE = 256
PALETTE = 4352  # 32 colours of 6 bits (nesdev wiki, "PPU palettes")
PALETTE_SIZE = 32
REGISTERS = 4384  # int64 registers from here to the end of the row

# --- registers: indices into row[REGISTERS:].view(int64) -------------------------------------
# 6502 (nesdev wiki, "CPU registers")
PC = 0
SP = 1
A = 2
X = 3
Y = 4
P = 5  # the status byte as it is pushed, without the B flag
CLOCK = 6  # CPU cycle, within the frame call, at which the next instruction acts
CYCLE_PARITY = 7  # parity of all CPU cycles before this frame call, for OAM DMA's odd cycle
# PPU position: the next dot to run
LINE = 8  # 0-239 visible, 240 post-render, 241-260 vertical blank, 261 pre-render
DOT = 9  # 1-341; pixel x is made by dot x + 1
DOTS_DONE = 10  # dots run since this frame call began
ODD_FRAME = 11
# PPU registers (nesdev wiki, "PPU registers" and "PPU scrolling")
CTRL = 12
MASK = 13
VBLANK = 14
SPRITE_0_HIT = 15
V = 16  # current video address
T = 17  # temporary video address, the scroll position to come
FINE_X = 18
SECOND_WRITE = 19  # the toggle of $2005 and $2006
READ_BUFFER = 20  # $2007's delayed byte
OAM_ADDRESS = 21
# sprites of the current line
SPRITES_HELD = 22  # 1: the next two hold them, chosen before OAM last changed
SPRITE_COUNT = 23  # 0-8
SPRITE_LIST = 24  # their numbers, a byte each, the first chosen lowest
ROW_0_FRESH = 25  # nothing was written to the PPU since line 239 chose the sprites of row 0
# controller (nesdev wiki, "Standard controller")
BUTTONS = 26
STROBE = 27
SHIFT = 28
# the first thing met that this machine cannot do
ERROR = 29  # an ERROR_ code, 0: none
ERROR_DETAIL = 30  # the address or the opcode
ERROR_PC = 31
REGISTER_COUNT = 32

STATE_SIZE = REGISTERS + 8 * REGISTER_COUNT
assert STATE_SIZE == 4640 and REGISTERS % 8 == 0 and STATE_SIZE % 8 == 0

# --- errors -----------------------------------------------------------------------------------
ERROR_NONE = 0
ERROR_OPCODE = 1
ERROR_READ = 2
ERROR_WRITE = 3
ERROR_JUMP = 4
ERROR_DMA = 5
ERROR_STUCK = 6

_ERROR_TEXTS = {
    ERROR_OPCODE: "opcode ${detail:02X} is not an official 6502 instruction",
    ERROR_READ: "read of ${detail:04X}: nothing readable is there on this machine",
    ERROR_WRITE: "write to ${detail:04X}: nothing writable is there on this machine",
    ERROR_JUMP: "jump to ${detail:04X}: programs run from ROM ($8000-$FFFF) only",
    ERROR_DMA: "sprite DMA from page ${detail:02X}: it works from RAM (pages $00-$1F) only",
    ERROR_STUCK: "the game stayed busy for {detail} frames; it is stuck in player state or world"
    " end",
}


class EmulationError(RuntimeError):
    """The program did something that this machine does not support; the message names it."""


class SnapshotError(ValueError):
    """An array that is not a snapshot of this machine."""


def registers(row: np.ndarray) -> np.ndarray:
    """Return the int64[REGISTER_COUNT] view of a row's registers."""
    return row[REGISTERS:].view(np.int64)


def power_on(row: np.ndarray, reset_vector: int) -> None:
    """Set uint8[STATE_SIZE] `row` to the state after power-on, at the program's first instruction.

    nesdev wiki, "CPU power up state" and "PPU power up state". nes-py starts with rendering
    switched on and its first pre-render line one dot longer (it starts at dot 0).
    """
    row[:] = 0
    regs = registers(row)
    regs[PC] = reset_vector
    regs[SP] = 0xFD
    regs[P] = 0x24
    regs[LINE] = 261
    regs[MASK] = 0x1E
    regs[SPRITES_HELD] = 1
    regs[STROBE] = 1


def check_error(row: np.ndarray) -> None:
    """Raise EmulationError if a frame ended with an error in this row."""
    regs = registers(row)
    if regs[ERROR] != ERROR_NONE:
        text = _ERROR_TEXTS[int(regs[ERROR])].format(detail=int(regs[ERROR_DETAIL]))
        raise EmulationError(f"{text} (near program counter ${int(regs[ERROR_PC]):04X})")


# --- what may be in a snapshot ------------------------------------------------------------------
# nes-py runs 29,781 CPU cycles, 89,343 dots, a frame call; a picture has 89,341 or 89,342. So every
# pixel is drawn in every call, and the end of a call moves down a line about every 230 calls.
CYCLES_PER_FRAME = 29781
DOTS_PER_FRAME = 3 * CYCLES_PER_FRAME
SPRITES = 64

# Registers that are no byte: the least and the most that each holds between two frame calls. The
# compiled code indexes memory by registers without looking, and counts up to them.
_RANGES = {
    PC: (0x8000, 0xFFFF),  # programs run from ROM
    CLOCK: (0, CYCLES_PER_FRAME),
    CYCLE_PARITY: (0, 1),
    LINE: (0, 261),
    DOT: (1, 341),
    DOTS_DONE: (0, DOTS_PER_FRAME),
    ODD_FRAME: (0, 1),
    VBLANK: (0, 1),
    SPRITE_0_HIT: (0, 1),
    V: (0, 0xFFFF),
    T: (0, 0xFFFF),
    FINE_X: (0, 7),
    SECOND_WRITE: (0, 1),
    SPRITES_HELD: (0, 1),
    SPRITE_COUNT: (0, 8),
    SPRITE_LIST: (0, np.iinfo(np.int64).max),  # eight bytes, looked at apart
    ROW_0_FRESH: (0, 1),
    STROBE: (0, 1),
    # A machine that met an error is not gone on with.
    ERROR: (ERROR_NONE, ERROR_NONE),
    ERROR_DETAIL: (0, 0),
    ERROR_PC: (0, 0),
}
_LEAST, _MOST = np.array(
    [_RANGES.get(register, (0, 0xFF)) for register in range(REGISTER_COUNT)], np.int64
).T
_NAMES = (
    "PC SP A X Y P CLOCK CYCLE_PARITY LINE DOT DOTS_DONE ODD_FRAME CTRL MASK VBLANK SPRITE_0_HIT V "
    "T FINE_X SECOND_WRITE READ_BUFFER OAM_ADDRESS SPRITES_HELD SPRITE_COUNT SPRITE_LIST "
    "ROW_0_FRESH BUTTONS STROBE SHIFT ERROR ERROR_DETAIL ERROR_PC"
).split()
assert len(_NAMES) == REGISTER_COUNT


def check_snapshot(snapshot: np.ndarray) -> np.ndarray:
    """Return `snapshot` if it is one: uint8[STATE_SIZE], every register within its range.

    Raises:
        SnapshotError: wrong type or length, or a register that no machine has.
    """
    array = np.asarray(snapshot)
    if array.dtype != np.uint8 or array.shape != (STATE_SIZE,):
        raise SnapshotError(
            f"a snapshot is uint8[{STATE_SIZE}], not {array.dtype}{list(array.shape)}"
        )
    check_snapshots(array[None])
    return array


def check_snapshots(rows: np.ndarray) -> None:
    """Raise SnapshotError if a row of uint8[m, STATE_SIZE] holds a register that no machine has."""
    regs = np.ascontiguousarray(rows[:, REGISTERS:]).view(np.int64)
    wrong = (regs < _LEAST) | (regs > _MOST)
    if wrong.any():
        i, register = np.argwhere(wrong)[0].tolist()
        raise SnapshotError(
            f"no snapshot: it has {regs[i, register]} in register {register} ({_NAMES[register]}), "
            f"which holds {_LEAST[register]} to {_MOST[register]}"
        )
    sprites = np.ascontiguousarray(regs[:, SPRITE_LIST]).view(np.uint8)
    if (sprites >= SPRITES).any():
        raise SnapshotError(f"no snapshot: it lists a sprite beyond {SPRITES - 1}")
