"""Constant tables: the 6502's instruction set, the colours, and the pre-decoded cartridge."""

from typing import NamedTuple

import numpy as np


class Instruction(NamedTuple):
    """One official opcode: name, addressing mode (see MODE_LENGTHS), base cycles."""

    name: str
    mode: str
    cycles: int


# nesdev wiki, "CPU addressing modes": bytes of an instruction in each mode
MODE_LENGTHS = {
    "implied": 1,
    "accumulator": 1,
    "immediate": 2,
    "zero_page": 2,
    "zero_page_x": 2,
    "zero_page_y": 2,
    "indirect_x": 2,
    "indirect_y": 2,
    "relative": 2,
    "absolute": 3,
    "absolute_x": 3,
    "absolute_y": 3,
    "indirect": 3,
}

# nesdev wiki, "Instruction reference". One line per instruction: mode, opcode, base cycles.
# Page crossings and taken branches add to these (see make_cpu.py).
_INSTRUCTION_SET = """
ADC immediate 69 2, zero_page 65 3, zero_page_x 75 4, absolute 6D 4, absolute_x 7D 4, absolute_y 79 4, indirect_x 61 6, indirect_y 71 5
AND immediate 29 2, zero_page 25 3, zero_page_x 35 4, absolute 2D 4, absolute_x 3D 4, absolute_y 39 4, indirect_x 21 6, indirect_y 31 5
ASL accumulator 0A 2, zero_page 06 5, zero_page_x 16 6, absolute 0E 6, absolute_x 1E 7
BCC relative 90 2
BCS relative B0 2
BEQ relative F0 2
BIT zero_page 24 3, absolute 2C 4
BMI relative 30 2
BNE relative D0 2
BPL relative 10 2
BRK implied 00 7
BVC relative 50 2
BVS relative 70 2
CLC implied 18 2
CLD implied D8 2
CLI implied 58 2
CLV implied B8 2
CMP immediate C9 2, zero_page C5 3, zero_page_x D5 4, absolute CD 4, absolute_x DD 4, absolute_y D9 4, indirect_x C1 6, indirect_y D1 5
CPX immediate E0 2, zero_page E4 3, absolute EC 4
CPY immediate C0 2, zero_page C4 3, absolute CC 4
DEC zero_page C6 5, zero_page_x D6 6, absolute CE 6, absolute_x DE 7
DEX implied CA 2
DEY implied 88 2
EOR immediate 49 2, zero_page 45 3, zero_page_x 55 4, absolute 4D 4, absolute_x 5D 4, absolute_y 59 4, indirect_x 41 6, indirect_y 51 5
INC zero_page E6 5, zero_page_x F6 6, absolute EE 6, absolute_x FE 7
INX implied E8 2
INY implied C8 2
JMP absolute 4C 3, indirect 6C 5
JSR absolute 20 6
LDA immediate A9 2, zero_page A5 3, zero_page_x B5 4, absolute AD 4, absolute_x BD 4, absolute_y B9 4, indirect_x A1 6, indirect_y B1 5
LDX immediate A2 2, zero_page A6 3, zero_page_y B6 4, absolute AE 4, absolute_y BE 4
LDY immediate A0 2, zero_page A4 3, zero_page_x B4 4, absolute AC 4, absolute_x BC 4
LSR accumulator 4A 2, zero_page 46 5, zero_page_x 56 6, absolute 4E 6, absolute_x 5E 7
NOP implied EA 2
ORA immediate 09 2, zero_page 05 3, zero_page_x 15 4, absolute 0D 4, absolute_x 1D 4, absolute_y 19 4, indirect_x 01 6, indirect_y 11 5
PHA implied 48 3
PHP implied 08 3
PLA implied 68 4
PLP implied 28 4
ROL accumulator 2A 2, zero_page 26 5, zero_page_x 36 6, absolute 2E 6, absolute_x 3E 7
ROR accumulator 6A 2, zero_page 66 5, zero_page_x 76 6, absolute 6E 6, absolute_x 7E 7
RTI implied 40 6
RTS implied 60 6
SBC immediate E9 2, zero_page E5 3, zero_page_x F5 4, absolute ED 4, absolute_x FD 4, absolute_y F9 4, indirect_x E1 6, indirect_y F1 5
SEC implied 38 2
SED implied F8 2
SEI implied 78 2
STA zero_page 85 3, zero_page_x 95 4, absolute 8D 4, absolute_x 9D 5, absolute_y 99 5, indirect_x 81 6, indirect_y 91 6
STX zero_page 86 3, zero_page_y 96 4, absolute 8E 4
STY zero_page 84 3, zero_page_x 94 4, absolute 8C 4
TAX implied AA 2
TAY implied A8 2
TSX implied BA 2
TXA implied 8A 2
TXS implied 9A 2
TYA implied 98 2
"""  # noqa: E501


def _parse_instruction_set(text: str) -> dict[int, Instruction]:
    instructions = {}
    for line in text.strip().splitlines():
        name, entries = line.split(" ", 1)
        for entry in entries.split(", "):
            mode, opcode, cycles = entry.split()
            instructions[int(opcode, 16)] = Instruction(name, mode, int(cycles))
    return instructions


INSTRUCTIONS = _parse_instruction_set(_INSTRUCTION_SET)
assert len(INSTRUCTIONS) == 151

# Opcodes that exist only in the pre-decoded program; no official instruction has these numbers.
OP_IDLE = 0x02  # JMP to itself: nothing but an interrupt ends it
OP_WAIT_HIT_SET = 0x12  # LDA $2002, AND #$40, BEQ back: until the sprite 0 hit flag is set
OP_WAIT_HIT_CLEAR = 0x22  # the same with BNE: until it is clear
OP_ILLEGAL = 0x03  # every unofficial opcode

# Fields of a pre-decoded instruction (uint32); bits 0-7: opcode
OPERAND_SHIFT = 8  # bits 8-23: operand; of a branch, the address it goes to
EXTRA_SHIFT = 24  # bits 24-31: of a taken branch, its cycles; of a wait loop, one round's cycles

PROGRAM_START = 0x8000
PROGRAM_SIZE = 0x8000


def decode_program(prg: np.ndarray) -> np.ndarray:
    """Pre-decode the program at every address, as if an instruction started there.

    Args:
        prg: uint8[32768].

    Returns:
        uint32[32768] of fields as above.
    """
    opcode = prg.astype(np.int64)
    low, high = np.roll(opcode, -1), np.roll(opcode, -2)
    length = np.ones(256, np.int64)
    is_branch = np.zeros(256, bool)
    is_official = np.zeros(256, bool)
    for number, instruction in INSTRUCTIONS.items():
        length[number] = MODE_LENGTHS[instruction.mode]
        is_branch[number] = instruction.mode == "relative"
        is_official[number] = True
    operand = np.where(length[opcode] == 3, low | high << 8, low)
    # A taken branch costs one cycle more, and to another page, by the 6502, two more. In nes-py
    # that is three more; the reference wins here.
    after = PROGRAM_START + np.arange(PROGRAM_SIZE) + 2
    target = (after + ((low ^ 0x80) - 0x80)) & 0xFFFF
    taken_cycles = np.where((after ^ target) & 0xFF00, 5, 3)
    branch = is_branch[opcode]
    operand = np.where(branch, target, operand)
    extra = np.where(branch, taken_cycles, 0)
    code = np.where(is_official[opcode], opcode, OP_ILLEGAL)
    # the loops that only wait
    following = [np.roll(opcode, -i) for i in range(7)]
    code[(opcode == 0x4C) & (operand == PROGRAM_START + np.arange(PROGRAM_SIZE))] = OP_IDLE
    for branch_opcode, wait in ((0xF0, OP_WAIT_HIT_SET), (0xD0, OP_WAIT_HIT_CLEAR)):
        pattern = (0xAD, 0x02, 0x20, 0x29, 0x40, branch_opcode, 0xF9)
        matches = np.all([following[i] == want for i, want in enumerate(pattern)], axis=0)
        code[matches] = wait
        extra[matches] = 4 + 2 + np.roll(taken_cycles, -5)[matches]
    return (code | operand << OPERAND_SHIFT | extra << EXTRA_SHIFT).astype(np.uint32)


def _pixel_masks() -> np.ndarray:
    """Return uint64[2, 256]: a byte's 8 bits as 8 bytes of 0x00 or 0xFF, plain and mirrored.

    The leftmost pixel is the highest bit of a pattern byte (nesdev wiki, "PPU pattern tables")
    and the lowest byte of a word here, because a screen is stored from left to right.
    """
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) * np.uint8(255)
    both = np.stack([bits, bits[:, ::-1]])
    return np.ascontiguousarray(both).view("<u8").astype(np.uint64).reshape(2, 256)


PIXEL_MASKS = _pixel_masks()

# The colours of palette values $00-$3F as nes-py 9.0.1 shows them; a table of the NES modding
# community (thealmightyguru.com, "NES Palette"). Sixteen hues for each of four brightnesses.
_PALETTE = """
7C7C7C 0000FC 0000BC 4428BC 940084 A80020 A81000 881400 503000 007800 006800 005800 004058 000000 000000 000000
BCBCBC 0078F8 0058F8 6844FC D800CC E40058 F83800 E45C10 AC7C00 00B800 00A800 00A844 008888 000000 000000 000000
F8F8F8 3CBCFC 6888FC 9878F8 F878F8 F85898 F87858 FCA044 F8B800 B8F818 58D854 58F898 00E8D8 787878 000000 000000
FCFCFC A4E4FC B8B8F8 D8B8F8 F8B8F8 F8A4C0 F0D0B0 FCE0A8 F8D878 D8F878 B8F8B8 B8F8D8 00FCFC F8D8F8 000000 000000
"""  # noqa: E501

# uint8[64, 3]
PALETTE_RGB = np.array([list(bytes.fromhex(color)) for color in _PALETTE.split()], np.uint8)
# uint8[64], nes-py's gray
PALETTE_GRAY = ((PALETTE_RGB.astype(np.int64) @ np.array([77, 150, 29])) >> 8).astype(np.uint8)
# uint8[64], for drawing palette indices
PALETTE_INDEX = np.arange(64, dtype=np.uint8)
# palette index of black, what a screen shows before its first frame
BLACK = 0x0F
