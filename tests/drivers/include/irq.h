/* irq.sys: a device with an interrupt line and nothing else. \Device\irq, link \DosDevices\irq.
 *
 * Its service routine counts, queues the device's DPC and claims the interrupt; the DPC counts and sets an event.
 */
#ifndef RINGFENCE_IRQ_H
#define RINGFENCE_IRQ_H
#include "codes.h"

/* 0x00222000: in struct irq_connect: connects the line of the ISA bus. STATUS_DEVICE_BUSY if one is connected. */
#define IRQ_CONNECT RF_CODE(0x800u, RF_BUFFERED)
struct irq_connect {
    rf_u32 line;
    rf_u32 mode;      /* KINTERRUPT_MODE: 0 level-sensitive, 1 latched */
    rf_u32 disclaims; /* nonzero: the service routine says that the interrupt was not its device's */
};
/* 0x00222004: disconnects it. */
#define IRQ_DISCONNECT RF_CODE(0x801u, RF_BUFFERED)
/* 0x00222008: out struct irq_counts, at once. */
#define IRQ_COUNTS RF_CODE(0x802u, RF_BUFFERED)
struct irq_counts {
    rf_u32 interrupts;
    rf_u32 dpcs;
    rf_u32 irql;     /* at which the service routine ran last */
    rf_u32 expected; /* the IRQL that HalGetInterruptVector named */
};
/* 0x0022200C: waits for an event that the DPC sets; out struct irq_counts. */
#define IRQ_WAIT RF_CODE(0x803u, RF_BUFFERED)
/* 0x00222010: in rf_u32 irql; raises IRQL to it and looks, without calling anything, until the service routine has run;
 * out struct irq_counts. */
#define IRQ_SPIN RF_CODE(0x804u, RF_BUFFERED)
/* 0x00222014: in rf_u32 loops; looks so many times as the interrupt's lock is held; out rf_u32, how many interrupts were
 * seen meanwhile. */
#define IRQ_HOLD RF_CODE(0x805u, RF_BUFFERED)
/* 0x00222018: as IRQ_CONNECT, by IoConnectInterruptEx; IRQ_DISCONNECT disconnects it by IoDisconnectInterruptEx. */
#define IRQ_CONNECT_EX RF_CODE(0x806u, RF_BUFFERED)
/* 0x0022201C: in rf_u32: IoReportInterruptActive (1) or IoReportInterruptInactive (0). */
#define IRQ_ACTIVE RF_CODE(0x807u, RF_BUFFERED)

#endif
