/* faulty.sys: does each thing that a driver must not do, on request.
 *
 * Device \Device\faulty, link \DosDevices\faulty. All codes are METHOD_BUFFERED and take no input unless said.
 * "Ends in" names the bugcheck that NT documents for it; a request that comes back says so with a status.
 */
#ifndef RINGFENCE_FAULTY_H
#define RINGFENCE_FAULTY_H
#include "codes.h"

/* 0x00222000: writes to address 0. SYSTEM_SERVICE_EXCEPTION (0x3B), on i386 KERNEL_MODE_EXCEPTION_NOT_HANDLED (0x8E),
 * with STATUS_ACCESS_VIOLATION. */
#define FAULTY_NULL_WRITE RF_CODE(0x800u, RF_BUFFERED)
/* 0x00222004: divides by zero. The same with STATUS_INTEGER_DIVIDE_BY_ZERO. */
#define FAULTY_DIVIDE_BY_ZERO RF_CODE(0x801u, RF_BUFFERED)
/* 0x00222008: calls IoDeleteSymbolicLink (PASSIVE_LEVEL only) at DISPATCH_LEVEL. IRQL_NOT_LESS_OR_EQUAL (0x0A). */
#define FAULTY_PASSIVE_AT_DISPATCH RF_CODE(0x802u, RF_BUFFERED)
/* 0x0022200C: completes the request, then returns from dispatch at DISPATCH_LEVEL. IRQL_UNEXPECTED_VALUE (0xC8) or
 * IRQL_NOT_LESS_OR_EQUAL. */
#define FAULTY_RETURN_RAISED RF_CODE(0x803u, RF_BUFFERED)
/* 0x00222010: loops for ever at PASSIVE_LEVEL. The host's time limit ends it. */
#define FAULTY_INFINITE_LOOP RF_CODE(0x804u, RF_BUFFERED)
/* 0x00222014: recurses until the kernel stack is gone. UNEXPECTED_KERNEL_MODE_TRAP (0x7F), double fault (8). */
#define FAULTY_STACK_OVERFLOW RF_CODE(0x805u, RF_BUFFERED)
/* 0x00222018: completes the request twice. MULTIPLE_IRP_COMPLETE_REQUESTS (0x44). */
#define FAULTY_DOUBLE_COMPLETION RF_CODE(0x806u, RF_BUFFERED)
/* 0x0022201C: writes 16 bytes beyond a 64-byte pool block, then frees it. BAD_POOL_HEADER (0x19). */
#define FAULTY_POOL_OVERRUN RF_CODE(0x807u, RF_BUFFERED)
/* 0x00222020: frees a pool block twice. BAD_POOL_CALLER (0xC2). */
#define FAULTY_DOUBLE_FREE RF_CODE(0x808u, RF_BUFFERED)
/* 0x00222024: writes to its own code. ATTEMPTED_WRITE_TO_READONLY_MEMORY (0xBE). */
#define FAULTY_WRITE_CODE RF_CODE(0x809u, RF_BUFFERED)
/* 0x00222028: calls into its .data. ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY (0xFC). */
#define FAULTY_EXECUTE_DATA RF_CODE(0x80Au, RF_BUFFERED)
/* 0x0022202C: in struct faulty_bugcheck. KeBugCheckEx with these (parameters cut to 32 bits on i386). */
#define FAULTY_BUGCHECK RF_CODE(0x80Bu, RF_BUFFERED)
struct faulty_bugcheck {
    rf_u32 code;
    rf_u32 zero;
    rf_u64 parameters[4];
};
/* 0x00222030: calls LpcRequestPort, a real export of ntoskrnl.exe that Ringfence does not have. A report that
 * names the function. */
#define FAULTY_MISSING_IMPORT RF_CODE(0x80Cu, RF_BUFFERED)
/* 0x00222034: in struct faulty_flood. Writes value 0, 1, 2... (low byte) to the port `count` times; count 0: for
 * ever. Comes back with STATUS_SUCCESS. */
#define FAULTY_PORT_FLOOD RF_CODE(0x80Du, RF_BUFFERED)
/* 0x00222038: in struct faulty_flood (port not used). Calls DbgPrint `count` times; count 0: for ever.
 * STATUS_SUCCESS. */
#define FAULTY_PRINT_FLOOD RF_CODE(0x80Eu, RF_BUFFERED)
struct faulty_flood {
    rf_u32 port;
    rf_u32 count;
};
/* 0x0022203C: leaves 160 bytes of non-paged pool (tag "Leak"), \Device\faulty_leak and \DosDevices\faulty_leak behind
 * at unload. STATUS_SUCCESS; a second time STATUS_OBJECT_NAME_COLLISION, with another 160 bytes leaked. */
#define FAULTY_LEAK RF_CODE(0x80Fu, RF_BUFFERED)
/* 0x00222040: loops for ever at HIGH_LEVEL. The host's time limit ends it. */
#define FAULTY_SPIN_RAISED RF_CODE(0x810u, RF_BUFFERED)
/* 0x00222044: calls address 0. */
#define FAULTY_CALL_NULL RF_CODE(0x811u, RF_BUFFERED)
/* 0x00222048: int 29h with code 2 in ECX, as a broken security cookie does. KERNEL_SECURITY_CHECK_FAILURE (0x139),
 * first parameter 2. */
#define FAULTY_FAST_FAIL RF_CODE(0x812u, RF_BUFFERED)
/* 0x0022204C: returns STATUS_PENDING, never completes. The client waits until it cancels or a time limit ends it. */
#define FAULTY_LOST_REQUEST RF_CODE(0x813u, RF_BUFFERED)
/* 0x00222050: executes ud2. As for a null write, with STATUS_ILLEGAL_INSTRUCTION. */
#define FAULTY_ILLEGAL_INSTRUCTION RF_CODE(0x814u, RF_BUFFERED)
/* 0x00222054: jumps to itself with the processor's interrupts off (cli). The host's time limit ends it. */
#define FAULTY_SPIN_CLI RF_CODE(0x815u, RF_BUFFERED)
/* 0x00222058: does nothing; STATUS_SUCCESS. Shows that the driver still answers. */
#define FAULTY_NOTHING RF_CODE(0x816u, RF_BUFFERED)
/* 0x0022205F: locks the pages of its input (METHOD_NEITHER) and leaves them so. STATUS_SUCCESS; when the client ends,
 * DRIVER_LEFT_LOCKED_PAGES_IN_PROCESS (0xCB), or without --verify PROCESS_HAS_LOCKED_PAGES (0x76). */
#define FAULTY_LEAVE_LOCKED RF_CODE(0x817u, RF_NEITHER)
/* Never returns, and calls the kernel again and again. */
#define FAULTY_LOOP_OF_CALLS RF_CODE(0x818u, RF_BUFFERED)

#endif
