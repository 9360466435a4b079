/* portio.sys: port and memory access for its client, the way LabVIEW's port drivers do it.
 *
 * Device \Device\portio, link \DosDevices\portio. A port goes through HalTranslateBusAddress(Isa, 0, port, 1); if
 * the translated address is in I/O space, READ_PORT_x / WRITE_PORT_x (on amd64, as in the WDK, these are in/out
 * instructions in the driver), else MmMapIoSpace and READ_REGISTER_x / WRITE_REGISTER_x.
 * `width` is 1, 2 or 4 bytes, else STATUS_INVALID_PARAMETER. All codes are METHOD_BUFFERED.
 */
#ifndef RINGFENCE_PORTIO_H
#define RINGFENCE_PORTIO_H
#include "codes.h"

struct portio_access {
    rf_u32 port;
    rf_u32 width;
    rf_u32 value; /* for writes; reads may leave it out */
};

/* 0x00222000: in struct portio_access; out the value as rf_u32. */
#define PORTIO_READ_PORT RF_CODE(0x800u, RF_BUFFERED)
/* 0x00222004: in struct portio_access. */
#define PORTIO_WRITE_PORT RF_CODE(0x801u, RF_BUFFERED)

/* 0x00222008: in {port, width} of struct portio_access; out (output length / width) values, read from the one port
 * with READ_PORT_BUFFER_x. */
#define PORTIO_READ_PORT_BUFFER RF_CODE(0x802u, RF_BUFFERED)
/* 0x0022200C: in {port, width}, then the values, written to the one port with WRITE_PORT_BUFFER_x. */
#define PORTIO_WRITE_PORT_BUFFER RF_CODE(0x803u, RF_BUFFERED)

struct portio_memory {
    rf_u64 address; /* physical, a multiple of width */
    rf_u32 length;  /* bytes, 1 to 65536, a multiple of width */
    rf_u32 width;
};

/* 0x00222010: in struct portio_memory; out `length` bytes. Maps, reads, unmaps.
 * STATUS_INSUFFICIENT_RESOURCES if MmMapIoSpace returns NULL. */
#define PORTIO_READ_MEMORY RF_CODE(0x804u, RF_BUFFERED)
/* 0x00222014: in struct portio_memory, then `length` bytes. Maps, writes, unmaps. */
#define PORTIO_WRITE_MEMORY RF_CODE(0x805u, RF_BUFFERED)

/* 0x00222018: in struct portio_memory (width is not used); out rf_u32, the mapping's number. It stays mapped until
 * PORTIO_UNMAP or until the driver is unloaded; there are 8. */
#define PORTIO_MAP RF_CODE(0x806u, RF_BUFFERED)
/* 0x0022201C: in rf_u32, the mapping's number. STATUS_INVALID_PARAMETER if there is none. */
#define PORTIO_UNMAP RF_CODE(0x807u, RF_BUFFERED)

struct portio_mapped {
    rf_u32 mapping;
    rf_u32 offset; /* bytes, a multiple of width, within the mapping */
    rf_u32 width;
    rf_u32 value; /* for writes; reads may leave it out */
};

/* 0x00222020: in struct portio_mapped; out the value as rf_u32. */
#define PORTIO_READ_MAPPED RF_CODE(0x808u, RF_BUFFERED)
/* 0x00222024: in struct portio_mapped. */
#define PORTIO_WRITE_MAPPED RF_CODE(0x809u, RF_BUFFERED)

/* 0x00222028: in struct portio_translate; out struct portio_translated. HalTranslateBusAddress as it is. */
#define PORTIO_TRANSLATE RF_CODE(0x80Au, RF_BUFFERED)
struct portio_translate {
    rf_u64 address;
    rf_u32 interface_type; /* INTERFACE_TYPE: 0 Internal, 1 Isa, 5 PCIBus */
    rf_u32 bus;
    rf_u32 space; /* 0 memory, 1 I/O */
    rf_u32 zero;
};
struct portio_translated {
    rf_u64 address;
    rf_u32 space;
    rf_u32 result; /* the BOOLEAN returned; address and space mean nothing when it is 0 */
};

/* 0x0022202C, 0x00222030: as PORTIO_READ_PORT and PORTIO_WRITE_PORT, but always by an in/out instruction of the
 * driver's own, untranslated, as inpout and WinIo do it. */
#define PORTIO_READ_INLINE RF_CODE(0x80Bu, RF_BUFFERED)
#define PORTIO_WRITE_INLINE RF_CODE(0x80Cu, RF_BUFFERED)

#endif
