"""The 6502 without its sound unit. Written by make_cpu.py: change that."""

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
            if opcode == 0x00:  # BRK implied
                clock += 7
                pc += 1
                pc += 1
                row[STACK + sp] = pc >> 8
                sp = (sp - 1) & 0xFF
                row[STACK + sp] = pc & 0xFF
                sp = (sp - 1) & 0xFF
                row[STACK + sp] = status(c, nz, others, v) | FLAG_BREAK
                sp = (sp - 1) & 0xFF
                others |= FLAG_INTERRUPT
                clock += 7
                pc = read_vector(prg, IRQ_VECTOR)
                if pc < ROM_START:
                    set_error(regs, ERROR_JUMP, pc)
                    is_wrong = True
                    break
            elif opcode == 0x01:  # ORA indirect_x
                pointer = operand + x
                address = np.int64(row[pointer & 0xFF]) | np.int64(row[(pointer + 1) & 0xFF]) << 8
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 6
                pc += 2
                a = nz = a | value
            elif opcode == 0x05:  # ORA zero_page
                address = operand
                value = np.int64(row[address])
                clock += 3
                pc += 2
                a = nz = a | value
            elif opcode == 0x06:  # ASL zero_page
                address = operand
                value = np.int64(row[address])
                c = value >> 7
                value = (value << 1) & 0xFF
                nz = value
                row[address] = value
                clock += 5
                pc += 2
            elif opcode == 0x08:  # PHP implied
                clock += 3
                pc += 1
                row[STACK + sp] = status(c, nz, others, v) | FLAG_BREAK
                sp = (sp - 1) & 0xFF
            elif opcode == 0x09:  # ORA immediate
                value = operand
                clock += 2
                pc += 2
                a = nz = a | value
            elif opcode == 0x0A:  # ASL accumulator
                value = a
                c = value >> 7
                value = (value << 1) & 0xFF
                nz = value
                a = value
                clock += 2
                pc += 1
            elif opcode == 0x0D:  # ORA absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4
                pc += 3
                a = nz = a | value
            elif opcode == 0x0E:  # ASL absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                c = value >> 7
                value = (value << 1) & 0xFF
                nz = value
                if address < RAM_END:
                    row[address & RAM_MASK] = value
                else:
                    io_address = address
                    stored = value
                clock += 6
                pc += 3
                if stored >= 0:
                    break
            elif opcode == 0x10:  # BPL relative
                if nz & 0x180 == 0:
                    clock += extra
                    pc = operand
                else:
                    clock += 2
                    pc += 2
            elif opcode == 0x11:  # ORA indirect_y
                base = np.int64(row[operand]) | np.int64(row[(operand + 1) & 0xFF]) << 8
                address = (base + y) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 5 + (((base ^ address) >> 8) & 1)
                pc += 2
                a = nz = a | value
            elif opcode == 0x15:  # ORA zero_page_x
                address = (operand + x) & 0xFF
                value = np.int64(row[address])
                clock += 4
                pc += 2
                a = nz = a | value
            elif opcode == 0x16:  # ASL zero_page_x
                address = (operand + x) & 0xFF
                value = np.int64(row[address])
                c = value >> 7
                value = (value << 1) & 0xFF
                nz = value
                row[address] = value
                clock += 6
                pc += 2
            elif opcode == 0x18:  # CLC implied
                clock += 2
                pc += 1
                c = 0
            elif opcode == 0x19:  # ORA absolute_y
                address = (operand + y) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4 + (((operand ^ address) >> 8) & 1)
                pc += 3
                a = nz = a | value
            elif opcode == 0x1D:  # ORA absolute_x
                address = (operand + x) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4 + (((operand ^ address) >> 8) & 1)
                pc += 3
                a = nz = a | value
            elif opcode == 0x1E:  # ASL absolute_x
                address = (operand + x) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                c = value >> 7
                value = (value << 1) & 0xFF
                nz = value
                if address < RAM_END:
                    row[address & RAM_MASK] = value
                else:
                    io_address = address
                    stored = value
                clock += 7 + (((operand ^ address) >> 8) & 1)
                pc += 3
                if stored >= 0:
                    break
            elif opcode == 0x20:  # JSR absolute
                row[STACK + sp] = (pc + 2) >> 8
                sp = (sp - 1) & 0xFF
                row[STACK + sp] = (pc + 2) & 0xFF
                sp = (sp - 1) & 0xFF
                clock += 6
                pc = operand
                if pc < ROM_START:
                    set_error(regs, ERROR_JUMP, pc)
                    is_wrong = True
                    break
            elif opcode == 0x21:  # AND indirect_x
                pointer = operand + x
                address = np.int64(row[pointer & 0xFF]) | np.int64(row[(pointer + 1) & 0xFF]) << 8
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 6
                pc += 2
                a = nz = a & value
            elif opcode == 0x24:  # BIT zero_page
                address = operand
                value = np.int64(row[address])
                clock += 3
                pc += 2
                nz = a & value | (value & 0x80) << 1
                v = value >> 6 & 1
            elif opcode == 0x25:  # AND zero_page
                address = operand
                value = np.int64(row[address])
                clock += 3
                pc += 2
                a = nz = a & value
            elif opcode == 0x26:  # ROL zero_page
                address = operand
                value = np.int64(row[address])
                value = value << 1 | c
                c = value >> 8
                value &= 0xFF
                nz = value
                row[address] = value
                clock += 5
                pc += 2
            elif opcode == 0x28:  # PLP implied
                clock += 4
                pc += 1
                sp = (sp + 1) & 0xFF
                value = np.int64(row[STACK + sp])
                c = value & 1
                nz = unpack_nz(value)
                others = value & 0x0C
                v = value >> 6 & 1
            elif opcode == 0x29:  # AND immediate
                value = operand
                clock += 2
                pc += 2
                a = nz = a & value
            elif opcode == 0x2A:  # ROL accumulator
                value = a
                value = value << 1 | c
                c = value >> 8
                value &= 0xFF
                nz = value
                a = value
                clock += 2
                pc += 1
            elif opcode == 0x2C:  # BIT absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4
                pc += 3
                nz = a & value | (value & 0x80) << 1
                v = value >> 6 & 1
            elif opcode == 0x2D:  # AND absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4
                pc += 3
                a = nz = a & value
            elif opcode == 0x2E:  # ROL absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                value = value << 1 | c
                c = value >> 8
                value &= 0xFF
                nz = value
                if address < RAM_END:
                    row[address & RAM_MASK] = value
                else:
                    io_address = address
                    stored = value
                clock += 6
                pc += 3
                if stored >= 0:
                    break
            elif opcode == 0x30:  # BMI relative
                if nz & 0x180 != 0:
                    clock += extra
                    pc = operand
                else:
                    clock += 2
                    pc += 2
            elif opcode == 0x31:  # AND indirect_y
                base = np.int64(row[operand]) | np.int64(row[(operand + 1) & 0xFF]) << 8
                address = (base + y) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 5 + (((base ^ address) >> 8) & 1)
                pc += 2
                a = nz = a & value
            elif opcode == 0x35:  # AND zero_page_x
                address = (operand + x) & 0xFF
                value = np.int64(row[address])
                clock += 4
                pc += 2
                a = nz = a & value
            elif opcode == 0x36:  # ROL zero_page_x
                address = (operand + x) & 0xFF
                value = np.int64(row[address])
                value = value << 1 | c
                c = value >> 8
                value &= 0xFF
                nz = value
                row[address] = value
                clock += 6
                pc += 2
            elif opcode == 0x38:  # SEC implied
                clock += 2
                pc += 1
                c = 1
            elif opcode == 0x39:  # AND absolute_y
                address = (operand + y) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4 + (((operand ^ address) >> 8) & 1)
                pc += 3
                a = nz = a & value
            elif opcode == 0x3D:  # AND absolute_x
                address = (operand + x) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4 + (((operand ^ address) >> 8) & 1)
                pc += 3
                a = nz = a & value
            elif opcode == 0x3E:  # ROL absolute_x
                address = (operand + x) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                value = value << 1 | c
                c = value >> 8
                value &= 0xFF
                nz = value
                if address < RAM_END:
                    row[address & RAM_MASK] = value
                else:
                    io_address = address
                    stored = value
                clock += 7 + (((operand ^ address) >> 8) & 1)
                pc += 3
                if stored >= 0:
                    break
            elif opcode == 0x40:  # RTI implied
                clock += 6
                pc += 1
                sp = (sp + 1) & 0xFF
                value = np.int64(row[STACK + sp])
                c = value & 1
                nz = unpack_nz(value)
                others = value & 0x0C
                v = value >> 6 & 1
                sp = (sp + 1) & 0xFF
                pc = np.int64(row[STACK + sp])
                sp = (sp + 1) & 0xFF
                value = np.int64(row[STACK + sp])
                pc |= value << 8
                if pc < ROM_START:
                    set_error(regs, ERROR_JUMP, pc)
                    is_wrong = True
                    break
            elif opcode == 0x41:  # EOR indirect_x
                pointer = operand + x
                address = np.int64(row[pointer & 0xFF]) | np.int64(row[(pointer + 1) & 0xFF]) << 8
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 6
                pc += 2
                a = nz = a ^ value
            elif opcode == 0x45:  # EOR zero_page
                address = operand
                value = np.int64(row[address])
                clock += 3
                pc += 2
                a = nz = a ^ value
            elif opcode == 0x46:  # LSR zero_page
                address = operand
                value = np.int64(row[address])
                c = value & 1
                value >>= 1
                nz = value
                row[address] = value
                clock += 5
                pc += 2
            elif opcode == 0x48:  # PHA implied
                clock += 3
                pc += 1
                row[STACK + sp] = a
                sp = (sp - 1) & 0xFF
            elif opcode == 0x49:  # EOR immediate
                value = operand
                clock += 2
                pc += 2
                a = nz = a ^ value
            elif opcode == 0x4A:  # LSR accumulator
                value = a
                c = value & 1
                value >>= 1
                nz = value
                a = value
                clock += 2
                pc += 1
            elif opcode == 0x4C:  # JMP absolute
                clock += 3
                pc = operand
                if pc < ROM_START:
                    set_error(regs, ERROR_JUMP, pc)
                    is_wrong = True
                    break
            elif opcode == 0x4D:  # EOR absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4
                pc += 3
                a = nz = a ^ value
            elif opcode == 0x4E:  # LSR absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                c = value & 1
                value >>= 1
                nz = value
                if address < RAM_END:
                    row[address & RAM_MASK] = value
                else:
                    io_address = address
                    stored = value
                clock += 6
                pc += 3
                if stored >= 0:
                    break
            elif opcode == 0x50:  # BVC relative
                if v == 0:
                    clock += extra
                    pc = operand
                else:
                    clock += 2
                    pc += 2
            elif opcode == 0x51:  # EOR indirect_y
                base = np.int64(row[operand]) | np.int64(row[(operand + 1) & 0xFF]) << 8
                address = (base + y) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 5 + (((base ^ address) >> 8) & 1)
                pc += 2
                a = nz = a ^ value
            elif opcode == 0x55:  # EOR zero_page_x
                address = (operand + x) & 0xFF
                value = np.int64(row[address])
                clock += 4
                pc += 2
                a = nz = a ^ value
            elif opcode == 0x56:  # LSR zero_page_x
                address = (operand + x) & 0xFF
                value = np.int64(row[address])
                c = value & 1
                value >>= 1
                nz = value
                row[address] = value
                clock += 6
                pc += 2
            elif opcode == 0x58:  # CLI implied
                clock += 2
                pc += 1
                others &= ~FLAG_INTERRUPT
            elif opcode == 0x59:  # EOR absolute_y
                address = (operand + y) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4 + (((operand ^ address) >> 8) & 1)
                pc += 3
                a = nz = a ^ value
            elif opcode == 0x5D:  # EOR absolute_x
                address = (operand + x) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4 + (((operand ^ address) >> 8) & 1)
                pc += 3
                a = nz = a ^ value
            elif opcode == 0x5E:  # LSR absolute_x
                address = (operand + x) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                c = value & 1
                value >>= 1
                nz = value
                if address < RAM_END:
                    row[address & RAM_MASK] = value
                else:
                    io_address = address
                    stored = value
                clock += 7 + (((operand ^ address) >> 8) & 1)
                pc += 3
                if stored >= 0:
                    break
            elif opcode == 0x60:  # RTS implied
                clock += 6
                pc += 1
                sp = (sp + 1) & 0xFF
                pc = np.int64(row[STACK + sp])
                sp = (sp + 1) & 0xFF
                value = np.int64(row[STACK + sp])
                pc = ((pc | value << 8) + 1) & 0xFFFF
                if pc < ROM_START:
                    set_error(regs, ERROR_JUMP, pc)
                    is_wrong = True
                    break
            elif opcode == 0x61:  # ADC indirect_x
                pointer = operand + x
                address = np.int64(row[pointer & 0xFF]) | np.int64(row[(pointer + 1) & 0xFF]) << 8
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 6
                pc += 2
                total = a + value + c
                v = ((a ^ total) & (value ^ total)) >> 7 & 1
                c = total >> 8
                a = nz = total & 0xFF
            elif opcode == 0x65:  # ADC zero_page
                address = operand
                value = np.int64(row[address])
                clock += 3
                pc += 2
                total = a + value + c
                v = ((a ^ total) & (value ^ total)) >> 7 & 1
                c = total >> 8
                a = nz = total & 0xFF
            elif opcode == 0x66:  # ROR zero_page
                address = operand
                value = np.int64(row[address])
                value |= c << 8
                c = value & 1
                value >>= 1
                nz = value
                row[address] = value
                clock += 5
                pc += 2
            elif opcode == 0x68:  # PLA implied
                clock += 4
                pc += 1
                sp = (sp + 1) & 0xFF
                a = np.int64(row[STACK + sp])
                nz = a
            elif opcode == 0x69:  # ADC immediate
                value = operand
                clock += 2
                pc += 2
                total = a + value + c
                v = ((a ^ total) & (value ^ total)) >> 7 & 1
                c = total >> 8
                a = nz = total & 0xFF
            elif opcode == 0x6A:  # ROR accumulator
                value = a
                value |= c << 8
                c = value & 1
                value >>= 1
                nz = value
                a = value
                clock += 2
                pc += 1
            elif opcode == 0x6C:  # JMP indirect
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                pc = value
                address = (operand & 0xFF00) | ((operand + 1) & 0xFF)
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                pc |= value << 8
                clock += 5
                if pc < ROM_START:
                    set_error(regs, ERROR_JUMP, pc)
                    is_wrong = True
                    break
            elif opcode == 0x6D:  # ADC absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4
                pc += 3
                total = a + value + c
                v = ((a ^ total) & (value ^ total)) >> 7 & 1
                c = total >> 8
                a = nz = total & 0xFF
            elif opcode == 0x6E:  # ROR absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                value |= c << 8
                c = value & 1
                value >>= 1
                nz = value
                if address < RAM_END:
                    row[address & RAM_MASK] = value
                else:
                    io_address = address
                    stored = value
                clock += 6
                pc += 3
                if stored >= 0:
                    break
            elif opcode == 0x70:  # BVS relative
                if v != 0:
                    clock += extra
                    pc = operand
                else:
                    clock += 2
                    pc += 2
            elif opcode == 0x71:  # ADC indirect_y
                base = np.int64(row[operand]) | np.int64(row[(operand + 1) & 0xFF]) << 8
                address = (base + y) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 5 + (((base ^ address) >> 8) & 1)
                pc += 2
                total = a + value + c
                v = ((a ^ total) & (value ^ total)) >> 7 & 1
                c = total >> 8
                a = nz = total & 0xFF
            elif opcode == 0x75:  # ADC zero_page_x
                address = (operand + x) & 0xFF
                value = np.int64(row[address])
                clock += 4
                pc += 2
                total = a + value + c
                v = ((a ^ total) & (value ^ total)) >> 7 & 1
                c = total >> 8
                a = nz = total & 0xFF
            elif opcode == 0x76:  # ROR zero_page_x
                address = (operand + x) & 0xFF
                value = np.int64(row[address])
                value |= c << 8
                c = value & 1
                value >>= 1
                nz = value
                row[address] = value
                clock += 6
                pc += 2
            elif opcode == 0x78:  # SEI implied
                clock += 2
                pc += 1
                others |= FLAG_INTERRUPT
            elif opcode == 0x79:  # ADC absolute_y
                address = (operand + y) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4 + (((operand ^ address) >> 8) & 1)
                pc += 3
                total = a + value + c
                v = ((a ^ total) & (value ^ total)) >> 7 & 1
                c = total >> 8
                a = nz = total & 0xFF
            elif opcode == 0x7D:  # ADC absolute_x
                address = (operand + x) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4 + (((operand ^ address) >> 8) & 1)
                pc += 3
                total = a + value + c
                v = ((a ^ total) & (value ^ total)) >> 7 & 1
                c = total >> 8
                a = nz = total & 0xFF
            elif opcode == 0x7E:  # ROR absolute_x
                address = (operand + x) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                value |= c << 8
                c = value & 1
                value >>= 1
                nz = value
                if address < RAM_END:
                    row[address & RAM_MASK] = value
                else:
                    io_address = address
                    stored = value
                clock += 7 + (((operand ^ address) >> 8) & 1)
                pc += 3
                if stored >= 0:
                    break
            elif opcode == 0x81:  # STA indirect_x
                pointer = operand + x
                address = np.int64(row[pointer & 0xFF]) | np.int64(row[(pointer + 1) & 0xFF]) << 8
                if address < RAM_END:
                    row[address & RAM_MASK] = a
                else:
                    io_address = address
                    stored = a
                clock += 6
                pc += 2
                if stored >= 0:
                    break
            elif opcode == 0x84:  # STY zero_page
                address = operand
                row[address] = y
                clock += 3
                pc += 2
            elif opcode == 0x85:  # STA zero_page
                address = operand
                row[address] = a
                clock += 3
                pc += 2
            elif opcode == 0x86:  # STX zero_page
                address = operand
                row[address] = x
                clock += 3
                pc += 2
            elif opcode == 0x88:  # DEY implied
                clock += 2
                pc += 1
                y = nz = (y - 1) & 0xFF
            elif opcode == 0x8A:  # TXA implied
                clock += 2
                pc += 1
                a = nz = x
            elif opcode == 0x8C:  # STY absolute
                address = operand
                if address < RAM_END:
                    row[address & RAM_MASK] = y
                else:
                    io_address = address
                    stored = y
                clock += 4
                pc += 3
                if stored >= 0:
                    break
            elif opcode == 0x8D:  # STA absolute
                address = operand
                if address < RAM_END:
                    row[address & RAM_MASK] = a
                else:
                    io_address = address
                    stored = a
                clock += 4
                pc += 3
                if stored >= 0:
                    break
            elif opcode == 0x8E:  # STX absolute
                address = operand
                if address < RAM_END:
                    row[address & RAM_MASK] = x
                else:
                    io_address = address
                    stored = x
                clock += 4
                pc += 3
                if stored >= 0:
                    break
            elif opcode == 0x90:  # BCC relative
                if c == 0:
                    clock += extra
                    pc = operand
                else:
                    clock += 2
                    pc += 2
            elif opcode == 0x91:  # STA indirect_y
                base = np.int64(row[operand]) | np.int64(row[(operand + 1) & 0xFF]) << 8
                address = (base + y) & 0xFFFF
                if address < RAM_END:
                    row[address & RAM_MASK] = a
                else:
                    io_address = address
                    stored = a
                clock += 6
                pc += 2
                if stored >= 0:
                    break
            elif opcode == 0x94:  # STY zero_page_x
                address = (operand + x) & 0xFF
                row[address] = y
                clock += 4
                pc += 2
            elif opcode == 0x95:  # STA zero_page_x
                address = (operand + x) & 0xFF
                row[address] = a
                clock += 4
                pc += 2
            elif opcode == 0x96:  # STX zero_page_y
                address = (operand + y) & 0xFF
                row[address] = x
                clock += 4
                pc += 2
            elif opcode == 0x98:  # TYA implied
                clock += 2
                pc += 1
                a = nz = y
            elif opcode == 0x99:  # STA absolute_y
                address = (operand + y) & 0xFFFF
                if address < RAM_END:
                    row[address & RAM_MASK] = a
                else:
                    io_address = address
                    stored = a
                clock += 5
                pc += 3
                if stored >= 0:
                    break
            elif opcode == 0x9A:  # TXS implied
                clock += 2
                pc += 1
                sp = x
            elif opcode == 0x9D:  # STA absolute_x
                address = (operand + x) & 0xFFFF
                if address < RAM_END:
                    row[address & RAM_MASK] = a
                else:
                    io_address = address
                    stored = a
                clock += 5
                pc += 3
                if stored >= 0:
                    break
            elif opcode == 0xA0:  # LDY immediate
                value = operand
                clock += 2
                pc += 2
                y = nz = value
            elif opcode == 0xA1:  # LDA indirect_x
                pointer = operand + x
                address = np.int64(row[pointer & 0xFF]) | np.int64(row[(pointer + 1) & 0xFF]) << 8
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 6
                pc += 2
                a = nz = value
            elif opcode == 0xA2:  # LDX immediate
                value = operand
                clock += 2
                pc += 2
                x = nz = value
            elif opcode == 0xA4:  # LDY zero_page
                address = operand
                value = np.int64(row[address])
                clock += 3
                pc += 2
                y = nz = value
            elif opcode == 0xA5:  # LDA zero_page
                address = operand
                value = np.int64(row[address])
                clock += 3
                pc += 2
                a = nz = value
            elif opcode == 0xA6:  # LDX zero_page
                address = operand
                value = np.int64(row[address])
                clock += 3
                pc += 2
                x = nz = value
            elif opcode == 0xA8:  # TAY implied
                clock += 2
                pc += 1
                y = nz = a
            elif opcode == 0xA9:  # LDA immediate
                value = operand
                clock += 2
                pc += 2
                a = nz = value
            elif opcode == 0xAA:  # TAX implied
                clock += 2
                pc += 1
                x = nz = a
            elif opcode == 0xAC:  # LDY absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4
                pc += 3
                y = nz = value
            elif opcode == 0xAD:  # LDA absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4
                pc += 3
                a = nz = value
            elif opcode == 0xAE:  # LDX absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4
                pc += 3
                x = nz = value
            elif opcode == 0xB0:  # BCS relative
                if c != 0:
                    clock += extra
                    pc = operand
                else:
                    clock += 2
                    pc += 2
            elif opcode == 0xB1:  # LDA indirect_y
                base = np.int64(row[operand]) | np.int64(row[(operand + 1) & 0xFF]) << 8
                address = (base + y) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 5 + (((base ^ address) >> 8) & 1)
                pc += 2
                a = nz = value
            elif opcode == 0xB4:  # LDY zero_page_x
                address = (operand + x) & 0xFF
                value = np.int64(row[address])
                clock += 4
                pc += 2
                y = nz = value
            elif opcode == 0xB5:  # LDA zero_page_x
                address = (operand + x) & 0xFF
                value = np.int64(row[address])
                clock += 4
                pc += 2
                a = nz = value
            elif opcode == 0xB6:  # LDX zero_page_y
                address = (operand + y) & 0xFF
                value = np.int64(row[address])
                clock += 4
                pc += 2
                x = nz = value
            elif opcode == 0xB8:  # CLV implied
                clock += 2
                pc += 1
                v = 0
            elif opcode == 0xB9:  # LDA absolute_y
                address = (operand + y) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4 + (((operand ^ address) >> 8) & 1)
                pc += 3
                a = nz = value
            elif opcode == 0xBA:  # TSX implied
                clock += 2
                pc += 1
                x = nz = sp
            elif opcode == 0xBC:  # LDY absolute_x
                address = (operand + x) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4 + (((operand ^ address) >> 8) & 1)
                pc += 3
                y = nz = value
            elif opcode == 0xBD:  # LDA absolute_x
                address = (operand + x) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4 + (((operand ^ address) >> 8) & 1)
                pc += 3
                a = nz = value
            elif opcode == 0xBE:  # LDX absolute_y
                address = (operand + y) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4 + (((operand ^ address) >> 8) & 1)
                pc += 3
                x = nz = value
            elif opcode == 0xC0:  # CPY immediate
                value = operand
                clock += 2
                pc += 2
                c = np.int64(y >= value)
                nz = (y - value) & 0xFF
            elif opcode == 0xC1:  # CMP indirect_x
                pointer = operand + x
                address = np.int64(row[pointer & 0xFF]) | np.int64(row[(pointer + 1) & 0xFF]) << 8
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 6
                pc += 2
                c = np.int64(a >= value)
                nz = (a - value) & 0xFF
            elif opcode == 0xC4:  # CPY zero_page
                address = operand
                value = np.int64(row[address])
                clock += 3
                pc += 2
                c = np.int64(y >= value)
                nz = (y - value) & 0xFF
            elif opcode == 0xC5:  # CMP zero_page
                address = operand
                value = np.int64(row[address])
                clock += 3
                pc += 2
                c = np.int64(a >= value)
                nz = (a - value) & 0xFF
            elif opcode == 0xC6:  # DEC zero_page
                address = operand
                value = np.int64(row[address])
                value = (value - 1) & 0xFF
                nz = value
                row[address] = value
                clock += 5
                pc += 2
            elif opcode == 0xC8:  # INY implied
                clock += 2
                pc += 1
                y = nz = (y + 1) & 0xFF
            elif opcode == 0xC9:  # CMP immediate
                value = operand
                clock += 2
                pc += 2
                c = np.int64(a >= value)
                nz = (a - value) & 0xFF
            elif opcode == 0xCA:  # DEX implied
                clock += 2
                pc += 1
                x = nz = (x - 1) & 0xFF
            elif opcode == 0xCC:  # CPY absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4
                pc += 3
                c = np.int64(y >= value)
                nz = (y - value) & 0xFF
            elif opcode == 0xCD:  # CMP absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4
                pc += 3
                c = np.int64(a >= value)
                nz = (a - value) & 0xFF
            elif opcode == 0xCE:  # DEC absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                value = (value - 1) & 0xFF
                nz = value
                if address < RAM_END:
                    row[address & RAM_MASK] = value
                else:
                    io_address = address
                    stored = value
                clock += 6
                pc += 3
                if stored >= 0:
                    break
            elif opcode == 0xD0:  # BNE relative
                if nz & 0xFF != 0:
                    clock += extra
                    pc = operand
                else:
                    clock += 2
                    pc += 2
            elif opcode == 0xD1:  # CMP indirect_y
                base = np.int64(row[operand]) | np.int64(row[(operand + 1) & 0xFF]) << 8
                address = (base + y) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 5 + (((base ^ address) >> 8) & 1)
                pc += 2
                c = np.int64(a >= value)
                nz = (a - value) & 0xFF
            elif opcode == 0xD5:  # CMP zero_page_x
                address = (operand + x) & 0xFF
                value = np.int64(row[address])
                clock += 4
                pc += 2
                c = np.int64(a >= value)
                nz = (a - value) & 0xFF
            elif opcode == 0xD6:  # DEC zero_page_x
                address = (operand + x) & 0xFF
                value = np.int64(row[address])
                value = (value - 1) & 0xFF
                nz = value
                row[address] = value
                clock += 6
                pc += 2
            elif opcode == 0xD8:  # CLD implied
                clock += 2
                pc += 1
                others &= ~FLAG_DECIMAL
            elif opcode == 0xD9:  # CMP absolute_y
                address = (operand + y) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4 + (((operand ^ address) >> 8) & 1)
                pc += 3
                c = np.int64(a >= value)
                nz = (a - value) & 0xFF
            elif opcode == 0xDD:  # CMP absolute_x
                address = (operand + x) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4 + (((operand ^ address) >> 8) & 1)
                pc += 3
                c = np.int64(a >= value)
                nz = (a - value) & 0xFF
            elif opcode == 0xDE:  # DEC absolute_x
                address = (operand + x) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                value = (value - 1) & 0xFF
                nz = value
                if address < RAM_END:
                    row[address & RAM_MASK] = value
                else:
                    io_address = address
                    stored = value
                clock += 7 + (((operand ^ address) >> 8) & 1)
                pc += 3
                if stored >= 0:
                    break
            elif opcode == 0xE0:  # CPX immediate
                value = operand
                clock += 2
                pc += 2
                c = np.int64(x >= value)
                nz = (x - value) & 0xFF
            elif opcode == 0xE1:  # SBC indirect_x
                pointer = operand + x
                address = np.int64(row[pointer & 0xFF]) | np.int64(row[(pointer + 1) & 0xFF]) << 8
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 6
                pc += 2
                value ^= 0xFF
                total = a + value + c
                v = ((a ^ total) & (value ^ total)) >> 7 & 1
                c = total >> 8
                a = nz = total & 0xFF
            elif opcode == 0xE4:  # CPX zero_page
                address = operand
                value = np.int64(row[address])
                clock += 3
                pc += 2
                c = np.int64(x >= value)
                nz = (x - value) & 0xFF
            elif opcode == 0xE5:  # SBC zero_page
                address = operand
                value = np.int64(row[address])
                clock += 3
                pc += 2
                value ^= 0xFF
                total = a + value + c
                v = ((a ^ total) & (value ^ total)) >> 7 & 1
                c = total >> 8
                a = nz = total & 0xFF
            elif opcode == 0xE6:  # INC zero_page
                address = operand
                value = np.int64(row[address])
                value = (value + 1) & 0xFF
                nz = value
                row[address] = value
                clock += 5
                pc += 2
            elif opcode == 0xE8:  # INX implied
                clock += 2
                pc += 1
                x = nz = (x + 1) & 0xFF
            elif opcode == 0xE9:  # SBC immediate
                value = operand
                clock += 2
                pc += 2
                value ^= 0xFF
                total = a + value + c
                v = ((a ^ total) & (value ^ total)) >> 7 & 1
                c = total >> 8
                a = nz = total & 0xFF
            elif opcode == 0xEA:  # NOP implied
                clock += 2
                pc += 1
            elif opcode == 0xEC:  # CPX absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4
                pc += 3
                c = np.int64(x >= value)
                nz = (x - value) & 0xFF
            elif opcode == 0xED:  # SBC absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4
                pc += 3
                value ^= 0xFF
                total = a + value + c
                v = ((a ^ total) & (value ^ total)) >> 7 & 1
                c = total >> 8
                a = nz = total & 0xFF
            elif opcode == 0xEE:  # INC absolute
                address = operand
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                value = (value + 1) & 0xFF
                nz = value
                if address < RAM_END:
                    row[address & RAM_MASK] = value
                else:
                    io_address = address
                    stored = value
                clock += 6
                pc += 3
                if stored >= 0:
                    break
            elif opcode == 0xF0:  # BEQ relative
                if nz & 0xFF == 0:
                    clock += extra
                    pc = operand
                else:
                    clock += 2
                    pc += 2
            elif opcode == 0xF1:  # SBC indirect_y
                base = np.int64(row[operand]) | np.int64(row[(operand + 1) & 0xFF]) << 8
                address = (base + y) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 5 + (((base ^ address) >> 8) & 1)
                pc += 2
                value ^= 0xFF
                total = a + value + c
                v = ((a ^ total) & (value ^ total)) >> 7 & 1
                c = total >> 8
                a = nz = total & 0xFF
            elif opcode == 0xF5:  # SBC zero_page_x
                address = (operand + x) & 0xFF
                value = np.int64(row[address])
                clock += 4
                pc += 2
                value ^= 0xFF
                total = a + value + c
                v = ((a ^ total) & (value ^ total)) >> 7 & 1
                c = total >> 8
                a = nz = total & 0xFF
            elif opcode == 0xF6:  # INC zero_page_x
                address = (operand + x) & 0xFF
                value = np.int64(row[address])
                value = (value + 1) & 0xFF
                nz = value
                row[address] = value
                clock += 6
                pc += 2
            elif opcode == 0xF8:  # SED implied
                clock += 2
                pc += 1
                others |= FLAG_DECIMAL
            elif opcode == 0xF9:  # SBC absolute_y
                address = (operand + y) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4 + (((operand ^ address) >> 8) & 1)
                pc += 3
                value ^= 0xFF
                total = a + value + c
                v = ((a ^ total) & (value ^ total)) >> 7 & 1
                c = total >> 8
                a = nz = total & 0xFF
            elif opcode == 0xFD:  # SBC absolute_x
                address = (operand + x) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                clock += 4 + (((operand ^ address) >> 8) & 1)
                pc += 3
                value ^= 0xFF
                total = a + value + c
                v = ((a ^ total) & (value ^ total)) >> 7 & 1
                c = total >> 8
                a = nz = total & 0xFF
            elif opcode == 0xFE:  # INC absolute_x
                address = (operand + x) & 0xFFFF
                value = read_memory(row, prg, address)
                if value < 0:
                    if latch < 0:
                        io_address = address
                        break
                    value = latch
                    latch = np.int64(-1)
                value = (value + 1) & 0xFF
                nz = value
                if address < RAM_END:
                    row[address & RAM_MASK] = value
                else:
                    io_address = address
                    stored = value
                clock += 7 + (((operand ^ address) >> 8) & 1)
                pc += 3
                if stored >= 0:
                    break
            elif opcode == 0x02:  # JMP to itself
                clock += 3 * ((limit - clock + 2) // 3)
            elif opcode == 0x12:  # LDA $2002, AND #$40, BEQ back
                if latch < 0:
                    io_address = PPUSTATUS_ADDRESS
                    until = np.int64(1)
                    break
                a = nz = latch
                latch = np.int64(-1)
                clock += 4
                pc += 3
            elif opcode == 0x22:  # LDA $2002, AND #$40, BNE back
                if latch < 0:
                    io_address = PPUSTATUS_ADDRESS
                    until = np.int64(0)
                    break
                a = nz = latch
                latch = np.int64(-1)
                clock += 4
                pc += 3
            else:
                set_error(regs, ERROR_OPCODE, np.int64(prg[pc & ROM_MASK]))
                is_wrong = True
                break
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
