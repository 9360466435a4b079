/* What ringfence.sys tells the other Wine parts: how a process gets to the ports that its drivers have granted, and how to
 * the driver itself.
 *
 * Each service with ringfence.sys makes one device \\.\RingfencePortsN, N the lowest number from 0 to
 * RF_PORTS_DEVICES - 1 that was free when it started. A process asks each one that exists.
 */
#ifndef RINGFENCE_WINE_H
#define RINGFENCE_WINE_H

#include <stdint.h>

#define RF_PORTS_DEVICES 32
/* The number follows, decimal. */
#define RF_PORTS_DEVICE_W L"\\\\.\\RingfencePorts"
#define RF_PORTS_NT_LINK_W L"\\??\\RingfencePorts"

/* CTL_CODE(FILE_DEVICE_UNKNOWN, 0x9A0, METHOD_BUFFERED, FILE_ANY_ACCESS). No input; output: struct rf_ports.
 * STATUS_NOT_FOUND: the calling process has not opened a device of this driver, so there is nothing to share.
 * STATUS_BUFFER_TOO_SMALL: the output is smaller than struct rf_ports. */
#define RF_IOCTL_PORTS 0x00222680u

#define RF_PORTS_VERSION 1u

struct rf_ports {
    uint32_t version;   /* RF_PORTS_VERSION */
    uint32_t reserved;  /* 0 */
    char socket[112];   /* path of the micro-VM's socket (Linux), ended by a zero byte: for rf_connect */
    uint8_t token[16];  /* for rf_join: the calling process's process in that micro-VM */
};
_Static_assert(sizeof(struct rf_ports) == 136, "the same for 32-bit and 64-bit programs");

/* CTL_CODE(FILE_DEVICE_UNKNOWN, 0x9A1, METHOD_BUFFERED, FILE_ANY_ACCESS), for a handle of a driver's device. Input:
 * RF_DIRECT_MAGIC; output: struct rf_direct, no more and no less: anything else is a request for the driver.
 * STATUS_RETRY: the driver has not answered the open yet. STATUS_NOT_SUPPORTED, or any other: requests of that handle go through
 * winedevice. */
#define RF_IOCTL_DIRECT 0x00222684u
#define RF_DIRECT_MAGIC                                                                                  \
    {0x52, 0x46, 0xC3, 0x1D, 0x5A, 0x07, 0x4E, 0x99, 0xB6, 0x2F, 0x81, 0x64, 0xE0, 0xD8, 0x3B, 0x77}
enum { RF_DIRECT_MAGIC_BYTES = 16 };

#define RF_DIRECT_VERSION 1u

struct rf_direct {
    uint32_t version;  /* RF_DIRECT_VERSION */
    uint32_t lanes;    /* most connections to that micro-VM for requests of the calling process */
    uint64_t handle;   /* the file, as the owner of the process knows it: for rf_borrow */
    char socket[112];  /* as in struct rf_ports */
    uint8_t token[16]; /* for rf_join: the process that has opened the file */
};
_Static_assert(sizeof(struct rf_direct) == 144, "the same for 32-bit and 64-bit programs");

#endif
