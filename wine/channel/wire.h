/* The bytes of the channel, version 1; docs/channel.md describes them. All numbers are little-endian. */
#ifndef RINGFENCE_WIRE_H
#define RINGFENCE_WIRE_H

#include <stdint.h>

#define RF_WIRE_VERSION 1u
/* In memory: 00 52 46 63 68 61 6E 0A. */
#define RF_WIRE_MAGIC 0x0A6E616863465200ull

enum {
    RF_QUEUE_MIN = 8,
    RF_QUEUE_MAX = 4096,
    RF_DATA_MIN = 4096,
    RF_DATA_MAX = 64 << 20,
    RF_DESCRIPTOR_NEXT = 1,
    RF_DESCRIPTOR_WRITE = 2,
};

enum {
    RF_OP_OPEN = 1,
    RF_OP_CLOSE = 2,
    RF_OP_CLEANUP = 3,
    RF_OP_IOCTL = 4,
    RF_OP_READ = 5,
    RF_OP_WRITE = 6,
    RF_OP_FLUSH = 7,
    RF_OP_CANCEL = 8,
    RF_OP_PORT_IN = 9,
    RF_OP_PORT_OUT = 10,
    RF_OP_ATTACH = 11,
    RF_OP_EXIT = 12,
    RF_OP_QUERY = 13,
    RF_OP_SHARE = 14,
    RF_OP_JOIN = 15,
    RF_OP_BORROW = 16,
};

/* Codes of RF_OP_QUERY. */
enum {
    RF_QUERY_STATISTICS = 1,
    RF_QUERY_NAMES = 2,
    RF_QUERY_NAMES_CHANGED = 3,
};

struct rf_hello {
    uint64_t magic;
    uint32_t version_min;
    uint32_t version_max;
    uint32_t queue_size;
    uint32_t flags;
    uint64_t data_bytes;
};

struct rf_welcome {
    uint64_t magic;
    uint32_t version;
    uint32_t status;
    uint32_t queue_size;
    uint32_t process;
    uint32_t in_flight_max;
    uint32_t transfer_max;
    uint64_t descriptors;
    uint64_t available;
    uint64_t used;
    uint64_t data;
    uint64_t data_bytes;
    uint32_t driver_abi;
    uint32_t reserved;
};

struct rf_farewell {
    uint64_t magic;
    uint32_t status;
    uint32_t reason;
};

struct rf_descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

struct rf_used_element {
    uint32_t id;
    uint32_t length;
};

struct rf_request_header {
    uint16_t opcode;
    uint16_t flags;
    uint32_t process;
    uint64_t tag;
    uint64_t handle;
    uint32_t code;
    uint32_t input_bytes;
    uint32_t output_bytes;
    uint32_t reserved;
    uint64_t argument;
    uint64_t reserved2[2];
};

struct rf_result_header {
    uint32_t status;
    uint32_t output_bytes;
    uint64_t information;
    uint64_t value;
    uint64_t elapsed_ns;
};

_Static_assert(sizeof(struct rf_hello) == 32, "hello");
_Static_assert(sizeof(struct rf_welcome) == 80, "welcome");
_Static_assert(sizeof(struct rf_farewell) == 16, "farewell");
_Static_assert(sizeof(struct rf_descriptor) == 16, "descriptor");
_Static_assert(sizeof(struct rf_used_element) == 8, "used element");
_Static_assert(sizeof(struct rf_request_header) == 64, "request header");
_Static_assert(sizeof(struct rf_result_header) == 32, "result header");

#endif
