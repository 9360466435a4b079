/* ioperm.sys: gives its client I/O permission the way GIVEIO.SYS does.
 *
 * Device \Device\ioperm, link \DosDevices\ioperm. Opening
 *   \\.\ioperm        grants every port: Ke386SetIoAccessMap(1, zeros), Ke386IoSetAccessProcess(current, 1);
 *   \\.\ioperm\none   grants nothing (the codes below still work);
 *   anything else     fails with STATUS_OBJECT_NAME_NOT_FOUND.
 * Closing changes nothing, as with GIVEIO. A Ke386 call that returns FALSE ends in STATUS_UNSUCCESSFUL.
 */
#ifndef RINGFENCE_IOPERM_H
#define RINGFENCE_IOPERM_H
#include "codes.h"

/* 0x00222000: no input, no output. What opening does. */
#define IOPERM_GRANT_ALL RF_CODE(0x800u, RF_BUFFERED)

/* 0x00222004: in struct ioperm_range. The new map allows these ports and denies all others.
 * STATUS_INVALID_PARAMETER if last < first. */
#define IOPERM_GRANT_RANGE RF_CODE(0x801u, RF_BUFFERED)
struct ioperm_range {
    rf_u16 first; /* first port allowed */
    rf_u16 last;  /* last port allowed */
};

/* 0x00222008: in optionally rf_u32, the map's number (default 1); out the 8192 bytes that Ke386QueryIoAccessMap
 * gives. A set bit denies. STATUS_BUFFER_TOO_SMALL if there is less room. */
#define IOPERM_QUERY_MAP RF_CODE(0x802u, RF_BUFFERED)

/* 0x0022200C: no input, no output. Ke386IoSetAccessProcess(current, 0). */
#define IOPERM_REVOKE RF_CODE(0x803u, RF_BUFFERED)

/* 0x00222010: in struct ioperm_map. Ke386SetIoAccessMap(number, bits), nothing else. */
#define IOPERM_SET_MAP RF_CODE(0x804u, RF_BUFFERED)
#define IOPERM_MAP_BYTES 8192u
struct ioperm_map {
    rf_u32 number;
    rf_u8 bits[IOPERM_MAP_BYTES];
};

/* 0x00222014: in struct ioperm_process. PsLookupProcessByProcessId, Ke386IoSetAccessProcess(that process, number),
 * ObDereferenceObject. A failed look-up's status is the request's. */
#define IOPERM_SET_PROCESS RF_CODE(0x805u, RF_BUFFERED)
struct ioperm_process {
    rf_u32 process_id; /* 0: PsGetCurrentProcessId() */
    rf_u32 number;     /* 0: none, 1: the map */
};

#endif
