#include "decode.h"

int port_decode(const volatile uint8_t *code, int is_long, struct port_instruction *to)
{
    int is_short_operand = 0, is_other_address = 0;
    unsigned at = 0;
    uint8_t byte;

    *to = (struct port_instruction){.segment = PORT_DS};
    for (;; at++) {
        if (at == PORT_INSTRUCTION_MAX) {
            return 0;
        }
        byte = code[at];
        switch (byte) {
        case 0x66:
            is_short_operand = 1;
            continue;
        case 0x67:
            is_other_address = 1;
            continue;
        case 0xF2:
        case 0xF3:
            to->is_repeated = 1;
            continue;
        case 0x26:
            to->segment = PORT_ES;
            continue;
        case 0x2E:
            to->segment = PORT_CS;
            continue;
        case 0x36:
            to->segment = PORT_SS;
            continue;
        case 0x3E:
            to->segment = PORT_DS;
            continue;
        case 0x64:
            to->segment = PORT_FS;
            continue;
        case 0x65:
            to->segment = PORT_GS;
            continue;
        default:
            break;
        }
        /* REX changes nothing here: its W has no meaning for these (SDM vol. 2, IN: "N.E."). It may be followed by a further
         * prefix, and is void then. */
        if (is_long && (byte & 0xF0) == 0x40) {
            continue;
        }
        break;
    }
    to->width = (byte & 1) == 0 ? 1 : is_short_operand ? 2 : 4;
    to->address_bytes = is_long ? (is_other_address ? 4 : 8) : (is_other_address ? 2 : 4);
    to->is_write = (byte & 2) != 0;
    switch (byte & ~3u) {
    case 0x6C: /* ins, outs */
        to->is_string = 1;
        break;
    case 0xE4: /* in, out with the port behind the opcode */
        at++;
        if (at == PORT_INSTRUCTION_MAX) {
            return 0;
        }
        to->is_immediate = 1;
        to->port = code[at];
        to->is_repeated = 0;
        break;
    case 0xEC: /* with the port in dx */
        to->is_repeated = 0;
        break;
    default:
        return 0;
    }
    to->length = (uint8_t)(at + 1);
    return 1;
}
