"""Sends a driver a buffer by DeviceIoControl, with nothing but ctypes.

    RINGFENCE_CLIENT=target/release/libringfence.so python3 client/c/examples/echo.py /run/echo.sock
"""
import ctypes
import os
import sys

IOCTL_ECHO = 0x00222000

ringfence = ctypes.CDLL(os.environ.get("RINGFENCE_CLIENT", "libringfence.so"))
for function in ("connect", "open", "ioctl", "close", "port_in"):
    getattr(ringfence, "ringfence_" + function).restype = ctypes.c_uint32


def check(what, status):
    if status >> 30 == 3:
        sys.exit(f"{what}: NTSTATUS {status:08x}")


driver = ctypes.c_void_p()
check("connect", ringfence.ringfence_connect(sys.argv[1].encode(), ctypes.byref(driver)))
handle = ctypes.c_uint64()
check("open", ringfence.ringfence_open(driver, rb"\\.\echo", 0, ctypes.byref(handle)))

data = b"hello"
output = ctypes.create_string_buffer(len(data))
information = ctypes.c_uint64()
check(
    "ioctl",
    ringfence.ringfence_ioctl(
        driver, handle, IOCTL_ECHO, data, len(data), output, len(output), ctypes.byref(information)
    ),
)
print("blocking:", output.raw[: information.value].hex())

value = ctypes.c_uint32()
status = ringfence.ringfence_port_in(driver, ctypes.c_uint16(0x378), 1, ctypes.byref(value))
print(f"in al, 0x378: NTSTATUS {status:08x}")

check("close", ringfence.ringfence_close(driver, handle))
ringfence.ringfence_disconnect(driver)
