#!/usr/bin/env python3
"""The registers of QEMU's educational device (docs/specs/edu.rst of QEMU), without its DMA: 4096 bytes of memory.

0x00 reads 0x010000ed; 0x04 reads the complement of what was written; 0x08 computes a factorial, with bit 0 of 0x20 set
meanwhile and an interrupt at its end if bit 7 of 0x20 is set. 0x24 is the interrupt status, 0x60 raises bits of it, 0x64
ends them; the line is active while there are any.
"""
import math

from ringfence_model import Model, main


class Edu(Model):
    """QEMU's educational device."""

    width = 8

    def reset(self):
        self.liveness, self.factorial, self.control, self.pending = 0, 0, 0, 0

    def read(self, offset, width):
        registers = {
            0x00: 0x010000ED,
            0x04: self.liveness ^ 0xFFFFFFFF,
            0x08: self.factorial,
            0x20: self.control,
            0x24: self.pending,
        }
        low = registers.get(offset & ~7, 0) | registers.get(offset & ~7 | 4, 0) << 32
        return low >> 8 * (offset & 7)

    def write(self, offset, width, value):
        if width == 8:
            self.write(offset, 4, value & 0xFFFFFFFF)
            self.write(offset + 4, 4, value >> 32)
        elif offset == 0x04:
            self.liveness = value
        elif offset == 0x08:
            self.factorial = math.factorial(min(value, 20)) & 0xFFFFFFFF
            if self.control & 0x80:
                self.interrupt(self.pending | 1)
        elif offset == 0x20:
            self.control = value & 0x80
        elif offset == 0x60:
            self.interrupt(self.pending | value)
        elif offset == 0x64:
            self.interrupt(self.pending & ~value)

    def interrupt(self, pending):
        self.pending = pending
        (self.assert_irq if pending else self.deassert_irq)()


if __name__ == "__main__":
    main(Edu())
