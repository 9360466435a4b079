/* msr.sys: executes rdmsr and wrmsr for its client. \Device\msr, link \DosDevices\msr. An instruction that faults is the
 * driver's exception: a bugcheck. */
#ifndef RINGFENCE_MSR_H
#define RINGFENCE_MSR_H
#include "codes.h"

/* 0x00222000: in struct msr_access, out rf_u64: the register. */
#define MSR_READ RF_CODE(0x800u, RF_BUFFERED)
/* 0x00222004: in struct msr_access: writes `value`. */
#define MSR_WRITE RF_CODE(0x801u, RF_BUFFERED)
struct msr_access {
    rf_u64 value;
    rf_u32 number;
    rf_u32 zero;
};

#endif
