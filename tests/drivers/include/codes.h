/* What every sample driver's I/O control codes are made of. Usable in the driver and in a user program. */
#ifndef RINGFENCE_CODES_H
#define RINGFENCE_CODES_H

/* CTL_CODE(FILE_DEVICE_UNKNOWN, function, method, FILE_ANY_ACCESS), as the WDK page "Defining I/O Control Codes"
 * lays it out: device type in bits 16-31, access in 14-15, function in 2-13, method in 0-1. */
#define RF_CODE(function, method) ((0x22u << 16) | ((function) << 2) | (method))
#define RF_BUFFERED 0u
#define RF_IN_DIRECT 1u
#define RF_OUT_DIRECT 2u
#define RF_NEITHER 3u

/* Integer types with the same width in both driver ABIs and in user programs. Structures below have no padding. */
typedef unsigned char rf_u8;
typedef unsigned short rf_u16;
typedef unsigned int rf_u32;
typedef unsigned long long rf_u64;

#endif
