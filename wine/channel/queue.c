/* The client's end of the split queue: virtio 1.x, section 2.7, with VIRTIO_F_EVENT_IDX. */
#include "internal.h"

enum { HEADER = sizeof(struct rf_request_header), RESULT = sizeof(struct rf_result_header), NO_CELL = 0xFFFFFFFF };

/* Offsets of the rings' parts; the layout is that of the welcome, which rf_queue_accept has compared with this. */
static uint32_t available_entry(const struct rf_queue *queue, uint16_t index)
{
    return queue->available_at + 4 + 2 * (index & (queue->size - 1));
}

static uint32_t used_event(const struct rf_queue *queue)
{
    return queue->available_at + 4 + 2 * queue->size;
}

static uint32_t used_entry(const struct rf_queue *queue, uint16_t index)
{
    return queue->used_at + 4 + (uint32_t)sizeof(struct rf_used_element) * (index & (queue->size - 1));
}

static uint32_t available_event(const struct rf_queue *queue)
{
    return queue->used_at + 4 + (uint32_t)sizeof(struct rf_used_element) * queue->size;
}

static uint16_t load(const struct rf_queue *queue, uint32_t at)
{
    return __atomic_load_n((const uint16_t *)(queue->memory + at), __ATOMIC_ACQUIRE);
}

static void store(struct rf_queue *queue, uint32_t at, uint16_t value)
{
    __atomic_store_n((uint16_t *)(queue->memory + at), value, __ATOMIC_RELEASE);
}

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) & ~(unit - 1);
}

bool rf_queue_accept(struct rf_queue *queue, const struct rf_welcome *welcome)
{
    uint64_t size = welcome->queue_size;
    if (size < RF_QUEUE_MIN || size > RF_QUEUE_MAX || (size & (size - 1)) != 0) {
        return false;
    }
    if (welcome->data_bytes < RF_DATA_MIN || welcome->data_bytes > RF_DATA_MAX || welcome->data_bytes % 4096 != 0) {
        return false;
    }
    uint64_t available = size * sizeof(struct rf_descriptor);
    uint64_t used = round_up(available + 4 + 2 * size + 2, 64);
    uint64_t data = round_up(used + 4 + size * sizeof(struct rf_used_element) + 2, 4096);
    if (welcome->descriptors != 0 || welcome->available != available || welcome->used != used || welcome->data != data) {
        return false;
    }
    queue->size = (uint32_t)size;
    queue->available_at = (uint32_t)available;
    queue->used_at = (uint32_t)used;
    queue->data_at = (uint32_t)data;
    queue->cells = (uint32_t)welcome->data_bytes / RF_CELL_BYTES;
    queue->cells_free = queue->cells;
    queue->free_count = (uint16_t)size;
    for (uint32_t i = 0; i < queue->size; i++) {
        queue->free[i] = (uint16_t)(queue->size - 1 - i);
    }
    return true;
}

size_t rf_queue_bytes(const struct rf_welcome *welcome)
{
    return (size_t)(welcome->data + welcome->data_bytes);
}

static bool is_taken(const struct rf_queue *queue, uint32_t cell)
{
    return queue->taken[cell / 32] >> cell % 32 & 1;
}

static void mark_cells(struct rf_queue *queue, uint32_t first, uint32_t count)
{
    for (uint32_t cell = first; cell < first + count; cell++) {
        queue->taken[cell / 32] ^= 1u << cell % 32;
    }
}

/* First fit. No cell below the hint is free. */
static uint32_t take_cells(struct rf_queue *queue, uint32_t count)
{
    if (count > queue->cells_free) {
        return NO_CELL;
    }
    uint32_t run = 0;
    for (uint32_t cell = queue->cell_hint; cell < queue->cells; cell++) {
        if (cell % 32 == 0 && queue->taken[cell / 32] == 0xFFFFFFFF) {
            cell += 31;
            run = 0;
            continue;
        }
        run = is_taken(queue, cell) ? 0 : run + 1;
        if (run == count) {
            uint32_t first = cell + 1 - count;
            mark_cells(queue, first, count);
            queue->cells_free -= count;
            if (first == queue->cell_hint) {
                queue->cell_hint = cell + 1;
            }
            return first;
        }
    }
    return NO_CELL;
}

static void release_cells(struct rf_queue *queue, uint32_t first, uint32_t count)
{
    mark_cells(queue, first, count);
    queue->cells_free += count;
    if (first < queue->cell_hint) {
        queue->cell_hint = first;
    }
}

/* Where the result lies behind the header and the input. */
static uint32_t result_offset(const struct rf_request *request)
{
    return (uint32_t)round_up(HEADER + (uint64_t)request->input_bytes, 8);
}

static uint64_t cells_for(const struct rf_request *request)
{
    uint64_t bytes = round_up(HEADER + (uint64_t)request->input_bytes, 8) + RESULT + request->output_bytes;
    return (bytes + RF_CELL_BYTES - 1) / RF_CELL_BYTES;
}

bool rf_queue_could_hold(const struct rf_queue *queue, const struct rf_request *request)
{
    return cells_for(request) <= queue->cells;
}

bool rf_queue_leaves(const struct rf_queue *queue, const struct rf_request *request, uint32_t count)
{
    return queue->free_count >= 2 * (count + 1) && cells_for(request) + count <= queue->cells_free;
}

static void describe(struct rf_queue *queue, uint16_t index, uint64_t address, uint32_t length, uint16_t flags, uint16_t next)
{
    struct rf_descriptor *descriptor = (struct rf_descriptor *)queue->memory + index;
    descriptor->address = address;
    descriptor->length = length;
    descriptor->flags = flags;
    descriptor->next = next;
}

bool rf_queue_add(struct rf_queue *queue, struct rf_request *request)
{
    if (queue->free_count < 2) {
        return false;
    }
    uint32_t cells = (uint32_t)cells_for(request);
    uint32_t first = take_cells(queue, cells);
    if (first == NO_CELL) {
        return false;
    }
    request->first_cell = first;
    request->cells = cells;
    uint32_t at = queue->data_at + first * RF_CELL_BYTES;
    uint32_t result_at = at + result_offset(request);
    struct rf_request_header header = {
        .opcode = request->opcode,
        .process = request->process,
        .tag = request->tag,
        .handle = request->handle,
        .code = request->code,
        .input_bytes = request->input_bytes,
        .output_bytes = request->output_bytes,
        .argument = request->argument,
    };
    rf_copy(queue->memory + at, &header, HEADER);
    if (request->input_bytes != 0) {
        rf_copy(queue->memory + at + HEADER, request->input, request->input_bytes);
    }
    if (request->is_output_sent) {
        rf_copy(queue->memory + result_at + RESULT, request->output, request->output_bytes);
    } else {
        /* Nothing of an earlier request is shown to the driver; nor to the caller of a read, when a driver with direct I/O
         * reports more than it has written. */
        rf_zero(queue->memory + result_at, RESULT + (request->opcode == RF_OP_READ ? request->output_bytes : 0));
    }
    uint16_t head = queue->free[--queue->free_count];
    uint16_t second = queue->free[--queue->free_count];
    describe(queue, head, at, HEADER + request->input_bytes, RF_DESCRIPTOR_NEXT, second);
    describe(queue, second, result_at, RESULT + request->output_bytes, RF_DESCRIPTOR_WRITE, 0);
    queue->second[head] = second;
    queue->owner[head] = request;
    store(queue, available_entry(queue, queue->available), head);
    queue->available++;
    store(queue, queue->available_at + 2, queue->available);
    return true;
}

bool rf_queue_is_kick_due(struct rf_queue *queue)
{
    if (queue->available == queue->kicked) {
        return false;
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint16_t event = load(queue, available_event(queue));
    /* vring_need_event: whether moving the index from `kicked` to `available` passes `event`. */
    uint16_t past = (uint16_t)(queue->available - event - 1);
    bool is_due = past < (uint16_t)(queue->available - queue->kicked);
    queue->kicked = queue->available;
    return is_due;
}

bool rf_queue_has_used(const struct rf_queue *queue)
{
    return load(queue, queue->used_at + 2) != queue->next_used;
}

void rf_queue_arm(struct rf_queue *queue)
{
    store(queue, used_event(queue), queue->next_used);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* The chain is free again. */
static struct rf_request *give_back(struct rf_queue *queue, uint16_t head)
{
    struct rf_request *request = queue->owner[head];
    queue->owner[head] = NULL;
    queue->free[queue->free_count++] = queue->second[head];
    queue->free[queue->free_count++] = head;
    release_cells(queue, request->first_cell, request->cells);
    return request;
}

/* Reads the answer. The VMM may write at any time: each number is read once, and checked as it was read. */
static void read_answer(const struct rf_queue *queue, struct rf_request *request, uint32_t length)
{
    request->output_written = 0;
    request->information = 0;
    request->value = 0;
    if (length < RESULT) {
        /* The VMM did not understand the chain. */
        request->status = RF_STATUS_INVALID_PARAMETER;
        return;
    }
    const uint8_t *at = queue->memory + queue->data_at + request->first_cell * RF_CELL_BYTES + result_offset(request);
    struct rf_result_header result;
    rf_copy(&result, at, RESULT);
    uint32_t written = result.output_bytes < request->output_bytes ? result.output_bytes : request->output_bytes;
    if (written != 0) {
        rf_copy(request->output, at + RESULT, written);
    }
    request->status = result.status;
    request->output_written = written;
    request->information = result.information;
    request->value = result.value;
}

struct rf_request *rf_queue_take_used(struct rf_queue *queue, bool *is_broken)
{
    if (!rf_queue_has_used(queue)) {
        return NULL;
    }
    struct rf_used_element element;
    rf_copy(&element, queue->memory + used_entry(queue, queue->next_used), sizeof element);
    if (element.id >= queue->size || queue->owner[element.id] == NULL) {
        *is_broken = true;
        return NULL;
    }
    read_answer(queue, queue->owner[element.id], element.length);
    queue->next_used++;
    return give_back(queue, (uint16_t)element.id);
}

struct rf_request *rf_queue_take_back(struct rf_queue *queue)
{
    for (uint32_t head = 0; head < queue->size; head++) {
        if (queue->owner[head] != NULL) {
            return give_back(queue, (uint16_t)head);
        }
    }
    return NULL;
}
