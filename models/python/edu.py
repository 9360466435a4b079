#!/usr/bin/env python3
"""QEMU's educational device (docs/specs/edu.rst of QEMU): 4096 bytes of memory.

0x00 reads 0x010000ed; 0x04 reads the complement of what was written; 0x08 computes a factorial, with bit 0 of 0x20 set
meanwhile and an interrupt at its end if bit 7 of 0x20 is set. 0x24 is the interrupt status, 0x60 raises bits of it, 0x64
ends them; the line is active while there are any. With `dma = true` in its rule it is a bus master with a buffer of 4096
bytes at 0x40000 of its own: 0x80 has the source, 0x88 the destination, 0x90 how many bytes, and bit 0 of 0x98 starts, to the
buffer or with bit 1 set from it; bit 2 has an interrupt (0x100) at the end. What the guest has no memory for reads as ones.
"""
import math

from ringfence_model import DmaError, Model, main

BUFFER, BUFFER_BYTES = 0x40000, 4096
DMA_REGISTERS = (0x80, 0x88, 0x90, 0x98)
DMA_START, DMA_TO_MEMORY, DMA_INTERRUPT = 1, 2, 4


class Edu(Model):
    """QEMU's educational device."""

    width = 8

    def reset(self):
        self.liveness, self.factorial, self.control, self.pending = 0, 0, 0, 0
        self.dma = dict.fromkeys(DMA_REGISTERS, 0)
        self.buffer = bytearray(BUFFER_BYTES)

    def read(self, offset, width):
        registers = {
            0x00: 0x010000ED,
            0x04: self.liveness ^ 0xFFFFFFFF,
            0x08: self.factorial,
            0x20: self.control,
            0x24: self.pending,
        }
        if offset & ~7 in self.dma:
            return self.dma[offset & ~7] >> 8 * (offset & 7)
        low = registers.get(offset & ~7, 0) | registers.get(offset & ~7 | 4, 0) << 32
        return low >> 8 * (offset & 7)

    def write(self, offset, width, value):
        if offset in self.dma:
            self.dma[offset] = value
            if offset == 0x98 and value & DMA_START:
                self.transfer(value)
        elif width == 8:
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

    def transfer(self, command):
        source, destination, count = self.dma[0x80], self.dma[0x88], self.dma[0x90]
        own, address = (source, destination) if command & DMA_TO_MEMORY else (destination, source)
        at = own - BUFFER
        if at >= 0 and at + count <= BUFFER_BYTES:
            try:
                if command & DMA_TO_MEMORY:
                    self.dma_write(address, self.buffer[at : at + count])
                else:
                    self.buffer[at : at + count] = self.dma_read(address, count)
            except DmaError as error:
                print(f"edu: {error}", flush=True)
                if not command & DMA_TO_MEMORY:
                    self.buffer[at : at + count] = b"\xff" * count
        self.dma[0x98] = command & ~DMA_START
        if command & DMA_INTERRUPT:
            self.interrupt(self.pending | 0x100)

    def interrupt(self, pending):
        self.pending = pending
        (self.assert_irq if pending else self.deassert_irq)()


if __name__ == "__main__":
    main(Edu())
