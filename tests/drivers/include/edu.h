/* edu.sys: drives QEMU's `edu` device (docs/specs/edu.rst of QEMU), 1234:11e8: registers in a BAR, an interrupt. \Device\edu, link
 * \DosDevices\edu.
 *
 * Its service routine reads the interrupt status register, disclaims if nothing is set, else acknowledges and queues the
 * device's DPC, which counts and sets an event.
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
/* 0x00222010: looks for the device on bus 0 by HalGetBusData; out struct edu_function. STATUS_NO_SUCH_DEVICE. */
#define EDU_FIND RF_CODE(0x804u, RF_BUFFERED)
struct edu_function {
    rf_u32 slot; /* PCI_SLOT_NUMBER */
    rf_u32 bar;  /* the first base address register */
    rf_u32 line; /* the interrupt line register */
    rf_u32 pin;
    rf_u32 subsystem;
    rf_u32 revision; /* and class code */
};
/* 0x00222014: in struct edu_config, out rf_u32: reads 4 bytes of configuration space by HalGetBusDataByOffset. */
#define EDU_GET_CONFIG RF_CODE(0x805u, RF_BUFFERED)
/* 0x00222018: in struct edu_config: writes them by HalSetBusDataByOffset. */
#define EDU_SET_CONFIG RF_CODE(0x806u, RF_BUFFERED)
struct edu_config {
    rf_u32 slot;
    rf_u32 offset;
    rf_u32 value;
};
/* 0x0022201C: undoes EDU_START. */
#define EDU_STOP RF_CODE(0x807u, RF_BUFFERED)

#endif
