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
import mmap
import os
import socket
import struct
import sys
import threading
import time

VERSION = 1
MAGIC = 0x4D444652  # "RFDM"

# Kind, width, offset, value, number, extra.
MESSAGE = struct.Struct("<BBHIII")
WORD = struct.Struct("<I")
PAGE_BYTES = 4096

# Ringfence's messages.
HELLO, READ, WRITE, RESET, DOORBELL, GOODBYE = range(0x01, 0x07)
# The model's.
M_HELLO, M_DONE, M_ASSERT, M_DEASSERT, M_DOORBELL, M_GOODBYE, M_PULSE = range(0x81, 0x88)

# Words of the shared memory.
REQUEST_NUMBER, REQUEST, REQUEST_VALUE, RINGFENCE_POLLS = 0x00, 0x04, 0x08, 0x0C
ANSWER_NUMBER, ANSWER_VALUE, MODEL_POLLS = 0x40, 0x44, 0x48


class ProtocolError(Exception):
    """Ringfence, or whoever is at the other end, has sent what the protocol does not have."""


class Model:
    """A device. Override what it needs; everything is called on one thread."""

    #: The widest access that it takes as one: 1, 2 or 4 bytes. Ringfence cuts wider ones into pieces.
    width = 1
    #: Whether accesses come by shared memory instead of messages.
    memory = True
    #: Seconds to look at the shared memory before sleeping: quick answers for a processor's time.
    spin = 0.0

    #: The first port, how many there are, and whether the rule has an interrupt line.
    first = 0
    ports = 0
    has_irq = False

    _link = None

    def read(self, offset, width):
        """What a read of `width` bytes at the range's first port + `offset` returns."""
        return (1 << 8 * width) - 1

    def write(self, offset, width, value):
        """A write of `width` bytes at the range's first port + `offset`."""

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
        self._signal(M_PULSE)

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

    def send(self, kind, width=0, offset=0, value=0, number=0):
        with self._lock:
            self._connection.sendall(MESSAGE.pack(kind, width, offset, value, number, 0))

    def serve(self, model):
        """Answers until the end of the run."""
        fields, descriptors = self._receive_hello()
        _, _, version, magic, ports, extra = fields
        if magic != MAGIC or version < VERSION:
            raise ProtocolError("this is no Ringfence, or too old a one")
        takes_memory = bool(model.memory and descriptors)
        if takes_memory:
            self._page = mmap.mmap(descriptors[0], PAGE_BYTES)
        for descriptor in descriptors:
            os.close(descriptor)
        model.first, model.ports = extra & 0xFFFF, ports
        model.has_irq = bool(extra >> 16 & 1)
        self.send(M_HELLO, model.width, VERSION, MAGIC, int(takes_memory))
        # The reset comes first: an access that is in the shared memory already is one after it.
        message = self._receive()
        if message is None:
            return
        if message[0] != RESET:
            raise ProtocolError("no reset after the hello")
        model.reset()
        model._link = self
        try:
            self._serve_messages(model)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            model._link = None
            model.goodbye()

    def _serve_messages(self, model):
        while True:
            if self._page is not None:
                self._serve_page(model)
            message = self._receive()
            if message is None:
                return
            kind, width, offset, value, number, _ = MESSAGE.unpack(message)
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
                result = self._access(model, kind, width, offset, self._load(REQUEST_VALUE))
                self._store(ANSWER_VALUE, result)
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
        return model.read(offset, width) & 0xFFFFFFFF

    def _load(self, offset):
        return WORD.unpack_from(self._page, offset)[0]

    def _store(self, offset, value):
        WORD.pack_into(self._page, offset, value)

    def _receive_hello(self):
        data, descriptors, _, _ = socket.recv_fds(self._connection, MESSAGE.size, 4)
        if len(data) < MESSAGE.size or data[0] != HELLO:
            raise ProtocolError("no hello")
        return MESSAGE.unpack(data), descriptors

    def _receive(self):
        data = b""
        while len(data) < MESSAGE.size:
            more = self._connection.recv(MESSAGE.size - len(data))
            if not more:
                return None
            data += more
        return data


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
