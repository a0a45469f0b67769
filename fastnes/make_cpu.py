"""Writes cpu.py: one flat chain of branches, a branch for each of the 6502's 151 opcodes.

The instruction set is described here once, as source text: how each addressing mode finds its
operand, and what each operation does with it. Numba compiles the flat chain to one jump table,
which is the fastest form that was found. Run ``python -m fastnes.make_cpu`` after a change.

nesdev wiki, "Instruction reference", "CPU addressing modes", "Status flags".
"""

from pathlib import Path

from fastnes import tables
from fastnes.tables import INSTRUCTIONS, MODE_LENGTHS

# --- addressing modes: source that leaves the operand's place in `address` -------------------
ADDRESSES = {
    "zero_page": "address = operand",
    "zero_page_x": "address = (operand + x) & 0xFF",
    "zero_page_y": "address = (operand + y) & 0xFF",
    "absolute": "address = operand",
    "absolute_x": "address = (operand + x) & 0xFFFF",
    "absolute_y": "address = (operand + y) & 0xFFFF",
    "indirect_x": """
pointer = operand + x
address = np.int64(row[pointer & 0xFF]) | np.int64(row[(pointer + 1) & 0xFF]) << 8
""",
    "indirect_y": """
base = np.int64(row[operand]) | np.int64(row[(operand + 1) & 0xFF]) << 8
address = (base + y) & 0xFFFF
""",
}
ZERO_PAGE = ("zero_page", "zero_page_x", "zero_page_y")
# One cycle more if an index leads to the next page. In nes-py also for read-modify-write
# absolute,x, which really always takes seven.
PAGE_CROSSED = {
    "absolute_x": " + (((operand ^ address) >> 8) & 1)",
    "absolute_y": " + (((operand ^ address) >> 8) & 1)",
    "indirect_y": " + (((base ^ address) >> 8) & 1)",
}
# Reading or writing a device ends the inner loop of run_cpu, which then does it in one place. A
# read begins the instruction again with the byte in `latch`; a write lets it end first.
READ = """
value = read_memory(row, prg, address)
if value < 0:
    if latch < 0:
        io_address = address
        break
    value = latch
    latch = np.int64(-1)
"""
WRITE = """
if address < RAM_END:
    row[address & RAM_MASK] = {value}
else:
    io_address = address
    stored = {value}
"""
END_WRITE = "if stored >= 0:\n    break\n"

# --- operations ------------------------------------------------------------------------------
# Flags: c and v are 0 or 1; others holds I and D. nz holds both N and Z: Z is clear if one of its
# bits 0-7 is set, N is set if its bit 7 or 8 is; so a result is its own nz.
READ_OPERATIONS = {
    "ADC": """
total = a + value + c
v = ((a ^ total) & (value ^ total)) >> 7 & 1
c = total >> 8
a = nz = total & 0xFF
""",
    "AND": "a = nz = a & value",
    "BIT": "nz = a & value | (value & 0x80) << 1\nv = value >> 6 & 1",
    "CMP": "c = np.int64(a >= value)\nnz = (a - value) & 0xFF",
    "CPX": "c = np.int64(x >= value)\nnz = (x - value) & 0xFF",
    "CPY": "c = np.int64(y >= value)\nnz = (y - value) & 0xFF",
    "EOR": "a = nz = a ^ value",
    "LDA": "a = nz = value",
    "LDX": "x = nz = value",
    "LDY": "y = nz = value",
    "ORA": "a = nz = a | value",
}
# subtracting is adding the complement
READ_OPERATIONS["SBC"] = "value ^= 0xFF" + READ_OPERATIONS["ADC"]
CHANGE_OPERATIONS = {
    "ASL": "c = value >> 7\nvalue = (value << 1) & 0xFF",
    "DEC": "value = (value - 1) & 0xFF",
    "INC": "value = (value + 1) & 0xFF",
    "LSR": "c = value & 1\nvalue >>= 1",
    "ROL": "value = value << 1 | c\nc = value >> 8\nvalue &= 0xFF",
    "ROR": "value |= c << 8\nc = value & 1\nvalue >>= 1",
}
STORES = {"STA": "a", "STX": "x", "STY": "y"}
BRANCHES = {
    "BCC": "c == 0",
    "BCS": "c != 0",
    "BEQ": "nz & 0xFF == 0",
    "BMI": "nz & 0x180 != 0",
    "BNE": "nz & 0xFF != 0",
    "BPL": "nz & 0x180 == 0",
    "BVC": "v == 0",
    "BVS": "v != 0",
}
PUSH = "row[STACK + sp] = {value}\nsp = (sp - 1) & 0xFF\n"
PULL = "sp = (sp + 1) & 0xFF\n{name} = np.int64(row[STACK + sp])\n"
PULL_STATUS = PULL.format(name="value") + (
    "c = value & 1\nnz = unpack_nz(value)\nothers = value & 0x0C\nv = value >> 6 & 1\n"
)
STATUS = "status(c, nz, others, v)"
CHECK_JUMP = """
if pc < ROM_START:
    set_error(regs, ERROR_JUMP, pc)
    is_wrong = True
    break
"""
IMPLIED = {
    # In nes-py BRK takes the interrupt's seven cycles on top of its own.
    "BRK": "pc += 1\n"
    + PUSH.format(value="pc >> 8")
    + PUSH.format(value="pc & 0xFF")
    + PUSH.format(value=STATUS + " | FLAG_BREAK")
    + "others |= FLAG_INTERRUPT\nclock += 7\npc = read_vector(prg, IRQ_VECTOR)\n"
    + CHECK_JUMP,
    "CLC": "c = 0",
    "CLD": "others &= ~FLAG_DECIMAL",
    "CLI": "others &= ~FLAG_INTERRUPT",
    "CLV": "v = 0",
    "DEX": "x = nz = (x - 1) & 0xFF",
    "DEY": "y = nz = (y - 1) & 0xFF",
    "INX": "x = nz = (x + 1) & 0xFF",
    "INY": "y = nz = (y + 1) & 0xFF",
    "NOP": "",
    "PHA": PUSH.format(value="a"),
    "PHP": PUSH.format(value=STATUS + " | FLAG_BREAK"),
    "PLA": PULL.format(name="a") + "nz = a",
    "PLP": PULL_STATUS,
    "RTI": PULL_STATUS
    + PULL.format(name="pc")
    + PULL.format(name="value")
    + "pc |= value << 8\n"
    + CHECK_JUMP,
    "RTS": PULL.format(name="pc")
    + PULL.format(name="value")
    + "pc = ((pc | value << 8) + 1) & 0xFFFF\n"
    + CHECK_JUMP,
    "SEC": "c = 1",
    "SED": "others |= FLAG_DECIMAL",
    "SEI": "others |= FLAG_INTERRUPT",
    "TAX": "x = nz = a",
    "TAY": "y = nz = a",
    "TSX": "x = nz = sp",
    "TXA": "a = nz = x",
    "TXS": "sp = x",
    "TYA": "a = nz = y",
}
# nesdev wiki, "Errata": JMP ($xxFF) reads its high byte from the beginning of the same page
JUMP_INDIRECT = (
    "address = operand\n" + READ + "pc = value\n"
    "address = (operand & 0xFF00) | ((operand + 1) & 0xFF)\n" + READ + "pc |= value << 8\n"
)
# Nothing happens until the limit: count whole rounds of the loop.
IDLE = "clock += 3 * ((limit - clock + 2) // 3)"
WAIT = """
if latch < 0:
    io_address = PPUSTATUS_ADDRESS
    until = np.int64({until})
    break
a = nz = latch
latch = np.int64(-1)
clock += 4
pc += 3
"""

HEADER = '''"""The 6502 without its sound unit. Written by make_cpu.py: change that."""

import numpy as np

from fastnes.bus import read_io, set_error, write_io
from fastnes.compiled import compiled
from fastnes.state import (
    CLOCK,
    ERROR_JUMP,
    ERROR_OPCODE,
    ERROR_PC,
    PC,
    SP,
    A,
    P,
    X,
    Y,
)
from fastnes.tables import EXTRA_SHIFT, OPERAND_SHIFT
from fastnes.wait import wait_for_hit

RAM_END = 0x2000
RAM_MASK = 0x07FF
ROM_START = 0x8000
ROM_MASK = 0x7FFF
STACK = 0x0100  # nesdev wiki, "Stack": the pointer wraps within this page
PPUSTATUS_ADDRESS = 0x2002
HIT_FLAG = 0x40  # of PPUSTATUS
NMI_VECTOR = 0xFFFA
IRQ_VECTOR = 0xFFFE
FLAG_INTERRUPT = 0x04
FLAG_DECIMAL = 0x08
FLAG_BREAK = 0x10
FLAG_ALWAYS = 0x20


@compiled
def status(c, nz, others, v):
    """Pack the flags into the status byte (nesdev wiki, "Status flags"), B clear."""
    zero = np.int64(nz & 0xFF == 0)
    negative = np.int64(nz & 0x180 != 0)
    return c | zero << 1 | others | FLAG_ALWAYS | v << 6 | negative << 7


@compiled
def unpack_nz(packed):
    """Return the nz of a status byte: bit 8 for N, bit 0 for not Z."""
    return (packed & 0x80) << 1 | (~packed >> 1) & 1


@compiled
def read_memory(row, prg, address):
    """Return the byte of RAM or ROM (nesdev wiki, "CPU memory map"), or -1 for a device."""
    if address < RAM_END:
        return np.int64(row[address & RAM_MASK])
    if address >= ROM_START:
        return np.int64(prg[address & ROM_MASK])
    return np.int64(-1)


@compiled
def read_vector(prg, address):
    """Read the address that an interrupt jumps to."""
    return np.int64(prg[address & ROM_MASK]) | np.int64(prg[(address + 1) & ROM_MASK]) << 8


@compiled
def interrupt(row, regs, prg):
    """Take the PPU's interrupt (nesdev wiki, "NMI" and "CPU interrupts"): seven cycles."""
    pc, sp = regs[PC], regs[SP]
    row[STACK + sp] = pc >> 8
    row[STACK + ((sp - 1) & 0xFF)] = pc & 0xFF
    row[STACK + ((sp - 2) & 0xFF)] = regs[P]
    regs[SP] = (sp - 3) & 0xFF
    regs[P] |= FLAG_INTERRUPT
    regs[PC] = read_vector(prg, NMI_VECTOR)
    regs[CLOCK] += 7


@compiled
def run_cpu(row, regs, prg, code, video, limit):
    """Run the instructions that act before CPU cycle `limit` of this frame call.

    An instruction acts, reads and writes, on its first cycle; the next one acts when its cycles
    have passed. `code` is the pre-decoded program (tables.decode_program), `video` a draw.Video.
    """
    pc, sp = regs[PC], regs[SP]
    a, x, y = regs[A], regs[X], regs[Y]
    clock = regs[CLOCK]
    c, nz, v = regs[P] & 1, unpack_nz(regs[P]), regs[P] >> 6 & 1
    others = regs[P] & (FLAG_INTERRUPT | FLAG_DECIMAL)
    io_address = latch = stored = until = extra = began = np.int64(-1)
    is_wrong = False
    while clock < limit:
        while clock < limit:
            began = clock
            instruction = np.int64(code[pc & ROM_MASK])
            opcode = instruction & 0xFF
            operand = (instruction >> OPERAND_SHIFT) & 0xFFFF
            extra = instruction >> EXTRA_SHIFT
'''
FOOTER = """
        if stored >= 0:
            clock += write_io(row, regs, video, began, io_address, stored)
            stored = np.int64(-1)
        elif io_address >= 0:
            if until >= 0:
                clock += wait_for_hit(row, regs, video, (clock, limit), extra, until)
                if clock > began:
                    a = nz = np.int64(HIT_FLAG * (1 - until))  # what the last round's AND left
                until = np.int64(-1)
            if clock < limit:
                latch = np.int64(read_io(row, regs, video, clock, io_address))
        elif is_wrong:
            regs[ERROR_PC] = pc
            break
        io_address = np.int64(-1)
    regs[PC], regs[SP] = pc, sp
    regs[A], regs[X], regs[Y] = a, x, y
    regs[CLOCK] = clock
    regs[P] = status(c, nz, others, v)
"""


def _read(mode: str) -> str:
    if mode == "immediate":
        return "value = operand\n"
    if mode in ZERO_PAGE:
        return ADDRESSES[mode].strip() + "\nvalue = np.int64(row[address])\n"
    return ADDRESSES[mode].strip() + READ


def _write(mode: str, value: str) -> str:
    if mode in ZERO_PAGE:
        return f"row[address] = {value}\n"
    return WRITE.format(value=value)


def _end_write(mode: str) -> str:
    return "" if mode in ZERO_PAGE else END_WRITE


def branch_source(name: str, mode: str, cycles: int) -> str:
    """Return the body of one opcode's branch."""
    advance = f"pc += {MODE_LENGTHS[mode]}\n"
    spend = f"clock += {cycles}{PAGE_CROSSED.get(mode, '')}\n"
    if name in READ_OPERATIONS:
        return _read(mode) + spend + advance + READ_OPERATIONS[name]
    if name in CHANGE_OPERATIONS:
        change = CHANGE_OPERATIONS[name] + "\nnz = value\n"
        if mode == "accumulator":
            return "value = a\n" + change + "a = value\n" + spend + advance
        return _read(mode) + change + _write(mode, "value") + spend + advance + _end_write(mode)
    if name in STORES:
        spend = f"clock += {cycles}\n"  # a store never waits for the page
        store = ADDRESSES[mode].strip() + "\n" + _write(mode, STORES[name])
        return store + spend + advance + _end_write(mode)
    if name in BRANCHES:
        taken = "    clock += extra\n    pc = operand\n"
        skipped = f"    clock += {cycles}\n    pc += 2\n"
        return f"if {BRANCHES[name]}:\n{taken}else:\n{skipped}"
    if name == "JMP" and mode == "absolute":
        return spend + "pc = operand\n" + CHECK_JUMP
    if name == "JMP":
        return JUMP_INDIRECT + spend + CHECK_JUMP
    if name == "JSR":
        push = PUSH.format(value="(pc + 2) >> 8") + PUSH.format(value="(pc + 2) & 0xFF")
        return push + spend + "pc = operand\n" + CHECK_JUMP
    return spend + advance + IMPLIED[name]


def source() -> str:
    """Return the text of cpu.py."""
    branches = [
        (opcode, f"{instruction.name} {instruction.mode}", branch_source(*instruction))
        for opcode, instruction in sorted(INSTRUCTIONS.items())
    ]
    branches += [
        (tables.OP_IDLE, "JMP to itself", IDLE),
        (tables.OP_WAIT_HIT_SET, "LDA $2002, AND #$40, BEQ back", WAIT.format(until=1)),
        (tables.OP_WAIT_HIT_CLEAR, "LDA $2002, AND #$40, BNE back", WAIT.format(until=0)),
    ]
    lines = [HEADER.rstrip("\n")]
    keyword = "if"
    for opcode, comment, body in branches:
        lines.append(f"            {keyword} opcode == 0x{opcode:02X}:  # {comment}")
        lines += ["                " + line for line in body.split("\n") if line.strip()]
        keyword = "elif"
    lines += [
        "            else:",
        "                set_error(regs, ERROR_OPCODE, np.int64(prg[pc & ROM_MASK]))",
        "                is_wrong = True",
        "                break",
    ]
    return "\n".join(lines) + FOOTER


if __name__ == "__main__":
    (Path(__file__).parent / "cpu.py").write_text(source(), encoding="utf-8")
