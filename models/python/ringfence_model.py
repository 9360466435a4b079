"""Device models for Ringfence: a device is a Python program. Standard library only; Python 3.9 or later.

    from ringfence_model import Model, main

    class Latch(Model):
        value = 0

        def read(self, offset, width):
            return self.value

        def write(self, offset, width, value):
            self.value = value
            self.pulse_irq()

    main(Latch())

The protocol, byte for byte, is docs/external-models.md.
"""

import argparse
import collections
import mmap
import os
import socket
import struct
import sys
import threading
import time

VERSION = 2
MAGIC = 0x4D444652  # "RFDM"

# Hellos, and all messages of version 1: kind, width, offset, value, number, extra.
SHORT = struct.Struct("<BBHIII")
# All other messages of version 2: kind, width, flags, number, offset, value.
LONG = struct.Struct("<BBHIQQ")
WORD = struct.Struct("<I")
PAGE_BYTES = 4096
DMA_BYTES = 65536

# Ringfence's messages.
HELLO, READ, WRITE, RESET, DOORBELL, GOODBYE, RANGE, DMA_DONE = range(0x01, 0x09)
# The model's.
M_HELLO, M_DONE, M_ASSERT, M_DEASSERT, M_DOORBELL, M_GOODBYE, M_PULSE, M_DMA = range(0x81, 0x89)

# Words of the shared memory.
REQUEST_NUMBER, REQUEST, REQUEST_VALUE, RINGFENCE_POLLS = 0x00, 0x04, 0x08, 0x0C
REQUEST_OFFSET, REQUEST_VALUE_HIGH = 0x10, 0x14
ANSWER_NUMBER, ANSWER_VALUE, MODEL_POLLS, ANSWER_VALUE_HIGH = 0x40, 0x44, 0x48, 0x4C


class ProtocolError(Exception):
    """Ringfence, or whoever is at the other end, has sent what the protocol does not have."""


class DmaError(Exception):
    """The guest has no memory for devices there, the PCI function is no bus master, or the rule has no `dma`."""


class Model:
    """A device. Override what it needs; everything is called on one thread."""

    #: The widest access that it takes as one: 1, 2, 4 or 8 bytes. Ringfence cuts wider ones into pieces.
    width = 1
    #: Whether accesses come by shared memory instead of messages.
    memory = True
    #: Seconds to look at the shared memory before sleeping: quick answers for a processor's time.
    spin = 0.0
    #: Whether `pulse_irq` writes to an eventfd that Ringfence waits for, instead of sending a message (Python 3.10).
    irq_eventfd = False

    #: The first port or physical address, how many ports or bytes there are, whether it is memory, and whether the
    #: rule has an interrupt line.
    first = 0
    ports = 0
    is_memory = False
    has_irq = False
    #: Whether it may read and write the guest's memory (`dma = true` in its rule).
    has_dma = False

    _link = None

    def read(self, offset, width):
        """What a read of `width` bytes at `offset` from the range's beginning returns."""
        return (1 << 8 * width) - 1

    def write(self, offset, width, value):
        """A write of `width` bytes at `offset` from the range's beginning."""

    def reset(self):
        """The device is to be as after power on. Called at the start of every run."""

    def goodbye(self):
        """The run is over, or the connection is lost."""

    def assert_irq(self):
        """Makes the interrupt line active. May be called on any thread, as the two below."""
        self._signal(M_ASSERT)

    def deassert_irq(self):
        """Makes it inactive."""
        self._signal(M_DEASSERT)

    def pulse_irq(self):
        """One edge, or one delivery of a level-sensitive interrupt."""
        link = self._link
        if link is not None and link.event is not None:
            link.event_pulse()
        else:
            self._signal(M_PULSE)

    def dma_read(self, address, length):
        """Reads the guest's memory as a bus master: so many bytes at a guest-physical address, which is what drivers have
        from MmGetPhysicalAddress and DMA adapters. `DmaError` if they are not all there. May be called on any thread."""
        return b"".join(
            self._dma(address + at, min(DMA_BYTES // 2, length - at), None) for at in range(0, length, DMA_BYTES // 2)
        )

    def dma_write(self, address, data):
        """Writes the guest's memory, as `dma_read`. A transfer of more than 32 KiB that fails may have written some of it."""
        for at in range(0, len(data), DMA_BYTES // 2):
            piece = data[at : at + DMA_BYTES // 2]
            self._dma(address + at, len(piece), piece)

    def _dma(self, address, length, data):
        link = self._link
        if link is None or not self.has_dma:
            raise DmaError("the rule has no `dma`, or there is no run")
        return link.dma(self, address, length, data)

    def _signal(self, kind):
        link = self._link
        if link is not None:
            link.send(kind)


class Link:
    """A connection to a run of Ringfence."""

    def __init__(self, connection):
        self._connection = connection
        self._lock = threading.Lock()
        self._page = None
        self._version = 1
        # What is copied between the guest's memory and here: the first half is for the thread that serves.
        self._buffer = None
        self._dma_lock = threading.Lock()
        self._dma_news = threading.Condition()
        self._dma_number = 0
        self._dma_ends = {}
        self._is_over = False
        self._server = None
        # Messages that came while a transfer was waited for.
        self._backlog = collections.deque()
        #: The eventfd that Ringfence waits for, if there is one.
        self.event = None

    def send(self, kind, value=0, number=0, offset=0, flags=0):
        if self._version == 1:
            message = SHORT.pack(kind, 0, 0, value & 0xFFFFFFFF, number, 0)
        else:
            message = LONG.pack(kind, 0, flags, number, offset, value)
        with self._lock:
            self._connection.sendall(message)

    def event_pulse(self):
        try:
            os.eventfd_write(self.event, 1)
        except BlockingIOError:
            pass  # 2^64 - 2 pulses that nobody has read: Ringfence sees each write, and reads none.

    def dma(self, model, address, length, data):
        """One transfer, of at most half the buffer; the bytes that were read."""
        if threading.current_thread() is self._server:
            return self._transfer(model, 0, address, length, data)
        with self._dma_lock:
            return self._transfer(model, DMA_BYTES // 2, address, length, data)

    def _transfer(self, model, place, address, length, data):
        if data is not None:
            self._buffer[place : place + length] = bytes(data)
        with self._dma_news:
            self._dma_number = self._dma_number + 1 & 0xFFFFFFFF
            number = self._dma_number
        self.send(M_DMA, value=length | place << 32, number=number, offset=address, flags=int(data is not None))
        end = self._wait_here(number) if threading.current_thread() is self._server else self._wait_there(number)
        if end != 0:
            why = {1: "the guest has no memory for devices there", 2: "the function is no bus master"}
            raise DmaError(f"{length} bytes at {address:#x}: {why.get(end, 'the run is over')}")
        return self._buffer[place : place + length]

    def _wait_here(self, number):
        """On the thread that serves, which receives everything."""
        while True:
            with self._dma_news:
                if number in self._dma_ends:
                    return self._dma_ends.pop(number)
            message = self._receive()
            if message is None:
                raise BrokenPipeError
            if not self._is_dma_end(message):
                self._backlog.append(message)

    def _wait_there(self, number):
        with self._dma_news:
            self._dma_news.wait_for(lambda: number in self._dma_ends or self._is_over)
            return self._dma_ends.pop(number, None)

    def _is_dma_end(self, message):
        kind, _, _, _, value, number = message
        if kind != DMA_DONE:
            return False
        with self._dma_news:
            self._dma_ends[number] = value
            self._dma_news.notify_all()
        return True

    def serve(self, model):
        """Answers until the end of the run."""
        fields, descriptors = self._receive_hello()
        _, _, version, magic, ports, extra = fields
        if magic != MAGIC or version < 1:
            raise ProtocolError("this is no Ringfence")
        version = min(version, VERSION)
        takes_memory = bool(model.memory and descriptors)
        if takes_memory:
            self._page = mmap.mmap(descriptors[0], PAGE_BYTES)
        model.has_dma = bool(version > 1 and extra >> 16 & 16 and len(descriptors) > 1)
        if model.has_dma:
            self._buffer = mmap.mmap(descriptors[1], DMA_BYTES)
        for descriptor in descriptors:
            os.close(descriptor)
        model.first, model.ports = extra & 0xFFFF, ports
        model.has_irq = bool(extra >> 16 & 1)
        model.is_memory = bool(extra >> 16 & 8)
        if version > 1 and model.irq_eventfd and hasattr(os, "eventfd"):
            self.event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        width = model.width if version > 1 else min(model.width, 4)
        flags = int(takes_memory) | int(self.event is not None) << 1
        hello = SHORT.pack(M_HELLO, width, version, MAGIC, flags, 0)
        if self.event is None:
            self._connection.sendall(hello)
        else:
            socket.send_fds(self._connection, [hello], [self.event])
        self._version = version
        # The reset comes first: an access that is in the shared memory already is one after it.
        while True:
            message = self._receive()
            if message is None:
                return
            kind, flags, offset, value = message[0], message[2], message[3], message[4]
            if kind == RESET:
                break
            if kind != RANGE:
                raise ProtocolError("no reset after the hello")
            model.first, model.ports, model.is_memory = offset, value, bool(flags & 1)
        model.reset()
        self._server = threading.current_thread()
        model._link = self
        try:
            self._serve_messages(model)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            model._link = None
            with self._dma_news:
                self._is_over = True
                self._dma_news.notify_all()
            if self.event is not None:
                os.close(self.event)
            model.goodbye()

    def _serve_messages(self, model):
        while True:
            if self._page is not None:
                self._serve_page(model)
            message = self._backlog.popleft() if self._backlog else self._receive()
            if message is None:
                return
            kind, width, _, offset, value, number = message
            if self._is_dma_end(message):
                continue
            if kind in (READ, WRITE):
                result = self._access(model, kind, width, offset, value)
                self.send(M_DONE, value=result, number=number)
            elif kind == RESET:
                model.reset()
            elif kind == GOODBYE:
                return
            elif kind != DOORBELL:
                raise ProtocolError(f"a message of kind {kind:#04x}")

    def _serve_page(self, model):
        """Carries out the accesses in the shared memory, until there is none for `model.spin` seconds."""
        self._store(MODEL_POLLS, int(model.spin > 0))
        end = time.monotonic() + model.spin
        while True:
            number = self._load(REQUEST_NUMBER)
            if number != self._load(ANSWER_NUMBER):
                request = self._load(REQUEST)
                kind, width, offset = request & 0xFF, request >> 8 & 0xFF, request >> 16
                value = self._load(REQUEST_VALUE)
                if self._version > 1:
                    offset = self._load(REQUEST_OFFSET)
                    value |= self._load(REQUEST_VALUE_HIGH) << 32
                result = self._access(model, kind, width, offset, value)
                self._store(ANSWER_VALUE, result & 0xFFFFFFFF)
                if self._version > 1:
                    self._store(ANSWER_VALUE_HIGH, result >> 32)
                self._store(ANSWER_NUMBER, number)
                if not self._load(RINGFENCE_POLLS):
                    self.send(M_DOORBELL)
                end = time.monotonic() + model.spin
            elif self._load(MODEL_POLLS) == 0:
                # Nothing has come since it said that it sleeps.
                return
            elif time.monotonic() >= end:
                self._store(MODEL_POLLS, 0)

    @staticmethod
    def _access(model, kind, width, offset, value):
        if kind == WRITE:
            model.write(offset, width, value)
            return 0
        return model.read(offset, width) & 0xFFFFFFFFFFFFFFFF

    def _load(self, offset):
        return WORD.unpack_from(self._page, offset)[0]

    def _store(self, offset, value):
        WORD.pack_into(self._page, offset, value)

    def _receive_hello(self):
        data, descriptors, _, _ = socket.recv_fds(self._connection, SHORT.size, 4)
        if len(data) < SHORT.size or data[0] != HELLO:
            raise ProtocolError("no hello")
        return SHORT.unpack(data), descriptors

    def _receive(self):
        """The next message: kind, width, flags, offset, value, number; `None` at the end."""
        form = SHORT if self._version == 1 else LONG
        data = b""
        while len(data) < form.size:
            more = self._connection.recv(form.size - len(data))
            if not more:
                return None
            data += more
        if self._version == 1:
            kind, width, offset, value, number, _ = form.unpack(data)
            return kind, width, 0, offset, value, number
        kind, width, flags, number, offset, value = form.unpack(data)
        return kind, width, flags, offset, value, number


def serve(model, connection):
    """Is the device for one run, at a connected socket."""
    with connection:
        Link(connection).serve(model)


def listen(model, path):
    """Is the device for one run after the other, at a socket that is made at `path`."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(1)
        while True:
            connection, _ = listener.accept()
            try:
                serve(model, connection)
            except ProtocolError as error:
                print(f"{path}: {error}", file=sys.stderr)


def main(model):
    """Runs a model: `--socket PATH` listens there; without it the standard input is the connection, as for a model
    that Ringfence starts (`command` in the policy)."""
    parser = argparse.ArgumentParser(description=type(model).__doc__)
    parser.add_argument("--socket", metavar="PATH", help="listen at this Unix socket")
    arguments = parser.parse_args()
    try:
        if arguments.socket:
            listen(model, arguments.socket)
        else:
            serve(model, socket.socket(fileno=os.dup(0)))
    except KeyboardInterrupt:
        pass
