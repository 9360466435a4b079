/* Decodes in, out, ins and outs, and nothing else. No memory but the instruction's bytes is read. */
#ifndef RINGFENCE_PORT_DECODE_H
#define RINGFENCE_PORT_DECODE_H
#include <stdint.h>

/* Longest instruction (Intel SDM vol. 2, 2.3.11: more is #GP). */
#define PORT_INSTRUCTION_MAX 15

enum port_segment { PORT_DS, PORT_ES, PORT_CS, PORT_SS, PORT_FS, PORT_GS };

struct port_instruction {
    uint8_t length;        /* bytes, prefixes included */
    uint8_t width;         /* of the access: 1, 2 or 4 bytes */
    uint8_t is_write;      /* out, outs */
    uint8_t is_string;     /* ins, outs */
    uint8_t is_repeated;   /* F2 or F3: for ins and outs they mean the same (SDM vol. 2, REP) */
    uint8_t is_immediate;  /* the port is `port`; else it is dx */
    uint8_t port;
    uint8_t address_bytes; /* of rsi, rdi and rcx: 2, 4 or 8 */
    uint8_t segment;       /* of an outs: enum port_segment */
};

/* Decodes the instruction at `code`, which the processor has just fetched: each byte is read once, and none behind the
 * instruction. `is_long`: 64-bit code. 0 if it is another instruction. */
int port_decode(const volatile uint8_t *code, int is_long, struct port_instruction *to);

#endif
