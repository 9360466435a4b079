#!/usr/bin/env python3
"""A counter card: four latches, a counter of their writes, and an interrupt.

Offsets 0-3 are latches. Offset 4 reads how often they were written, modulo 256; a write to it sets that. A write to
offset 5 interrupts: 0 ends it, 1 asserts the line until then, 2 is one pulse. Offset 6 reads 1 while it is asserted.
"""
from ringfence_model import Model, main


class Counter(Model):
    """A counter card."""

    def reset(self):
        self.latches, self.count, self.is_asserted = [0] * 4, 0, False

    def read(self, offset, width):
        return [*self.latches, self.count, 0xFF, int(self.is_asserted), 0xFF][offset]

    def write(self, offset, width, value):
        if offset < 4:
            self.latches[offset] = value
            self.count = (self.count + 1) % 256
        elif offset == 4:
            self.count = value
        elif offset == 5 and value == 2:
            self.pulse_irq()
        elif offset == 5:
            self.is_asserted = value == 1
            (self.assert_irq if self.is_asserted else self.deassert_irq)()


if __name__ == "__main__":
    main(Counter())
