/* edu.sys: drives QEMU's `edu` device (docs/specs/edu.rst of QEMU), 1234:11e8: registers in a BAR, an interrupt. \Device\edu, link
 * \DosDevices\edu.
 *
 * Its service routine reads the interrupt status register, disclaims if nothing is set, else acknowledges and queues the
 * device's DPC, which counts and sets an event. Its bus master DMA moves bytes between memory and the device's buffer of
 * EDU_BUFFER bytes; the memory is a common buffer of an adapter of IoGetDmaAdapter.
 */
#ifndef RINGFENCE_EDU_H
#define RINGFENCE_EDU_H
#include "codes.h"

/* 0x00222000: in struct edu_start: maps the BAR by MmMapIoSpace and connects the level-sensitive line of the ISA bus.
 * STATUS_DEVICE_BUSY if that was done. */
#define EDU_START RF_CODE(0x800u, RF_BUFFERED)
struct edu_start {
    rf_u64 address; /* physical, of the first page of the BAR */
    rf_u32 line;
    rf_u32 zero;
};
/* 0x00222004: in struct edu_access, out rf_u32: reads a register `value` times; the last value. */
#define EDU_READ RF_CODE(0x801u, RF_BUFFERED)
/* 0x00222008: in struct edu_access: writes a register once. */
#define EDU_WRITE RF_CODE(0x802u, RF_BUFFERED)
struct edu_access {
    rf_u32 offset; /* in bytes, a multiple of 4 below 4096 */
    rf_u32 value;
};
/* 0x0022200C: waits for the event; out struct edu_counts. */
#define EDU_WAIT RF_CODE(0x803u, RF_BUFFERED)
struct edu_counts {
    rf_u32 interrupts; /* that the device had raised */
    rf_u32 dpcs;
    rf_u32 status;     /* the status register, all interrupts together */
    rf_u32 disclaimed; /* runs of the service routine without an interrupt of the device */
};
/* 0x00222010: in at most EDU_COUNT_MAX bytes, out as many: copies them to the common buffer's first half, has the device fetch them, then has it
 * store them to the second half, which is the output; each transfer ends with the device's interrupt.
 * STATUS_INSUFFICIENT_RESOURCES: there is no adapter or no common buffer. */
#define EDU_COPY RF_CODE(0x804u, RF_BUFFERED)
/* 0x00222014: in struct edu_transfer: one transfer, to its interrupt. Out rf_u64: the logical address of the common buffer;
 * then as much of its second half as fits. */
#define EDU_TRANSFER RF_CODE(0x805u, RF_BUFFERED)
#define EDU_BUFFER 4096u
/* QEMU 7.2 ends itself at a transfer of the whole buffer. */
#define EDU_COUNT_MAX (EDU_BUFFER - 1)
struct edu_transfer {
    rf_u64 address;  /* logical, below 2^32 */
    rf_u32 count;    /* 1 to EDU_COUNT_MAX bytes */
    rf_u32 to_memory; /* else to the device */
};
/* 0x00222018: looks for the device on bus 0 by HalGetBusData; out struct edu_function. STATUS_NO_SUCH_DEVICE. */
#define EDU_FIND RF_CODE(0x806u, RF_BUFFERED)
struct edu_function {
    rf_u32 slot; /* PCI_SLOT_NUMBER */
    rf_u32 bar;  /* the first base address register */
    rf_u32 line; /* the interrupt line register */
    rf_u32 pin;
    rf_u32 subsystem;
    rf_u32 revision; /* and class code */
};
/* 0x0022201C: in struct edu_config, out rf_u32: reads 4 bytes of configuration space by HalGetBusDataByOffset. */
#define EDU_GET_CONFIG RF_CODE(0x807u, RF_BUFFERED)
/* 0x00222020: in struct edu_config: writes them by HalSetBusDataByOffset. */
#define EDU_SET_CONFIG RF_CODE(0x808u, RF_BUFFERED)
struct edu_config {
    rf_u32 slot;
    rf_u32 offset;
    rf_u32 value;
};
/* 0x00222024: undoes EDU_START. */
#define EDU_STOP RF_CODE(0x809u, RF_BUFFERED)

#endif
