/* Looking for what the VMM gives back, before sleeping: the rule of the other clients (channel/src/polling.rs,
 * client/src/looking.rs, docs/channel.md). Reading the clock is a system call here.
 */
#include "internal.h"

enum {
    /* The longest look, and the shortest that is worth it. */
    LONGEST_NS = 100000,
    SHORTEST_NS = 10000,
    /* What comes within this time of falling asleep would have come within LONGEST_NS without the wake-ups. */
    SOON_NS = 300000,
    /* Most sleeps without a look after looking was no use. */
    REST_MAX = 32,
    /* Looks before the processor is yielded, about a microsecond, and what they count for. */
    LOOKS_ALONE = 64,
    ALONE_NS = 1000,
    /* What a yield takes when nobody else wants the processor, and more. */
    YIELD_NS = 1000,
    /* Who has it for so long computes: at most one part in so many of the time is lost by yielding to such a program. */
    LOSS_NS = 4000000,
    LOSS_SHARE = 128,
    NR_SCHED_YIELD = RF_NR(24, 158),
};

static void was_in_vain(struct rf_looking *looking)
{
    looking->rest = looking->next_rest;
    looking->next_rest = looking->next_rest * 2 < REST_MAX ? looking->next_rest * 2 : REST_MAX;
}

void rf_looking_start(struct rf_looking *looking, bool may_look)
{
    *looking = (struct rf_looking){.may_look = may_look, .next_rest = 1};
}

/* So many looks in a row. */
static bool look_for(const struct rf_queue *queue, uint32_t looks)
{
    for (uint32_t look = 0; look < looks; look++) {
        if (rf_queue_has_used(queue)) {
            return true;
        }
        __builtin_ia32_pause();
    }
    return rf_queue_has_used(queue);
}

/* Looks with the others' turns in between. Only its own time counts: what others use of the processor takes nothing from
 * anybody. */
static bool look_yielding(struct rf_looking *looking, const struct rf_queue *queue)
{
    uint64_t last = rf_now();
    bool may_yield = last >= looking->yield_from;
    for (uint32_t looked = ALONE_NS; looked < looking->window_ns;) {
        if (may_yield) {
            rf_syscall3(NR_SCHED_YIELD, 0, 0, 0);
        }
        if (look_for(queue, may_yield ? 1 : LOOKS_ALONE)) {
            return true;
        }
        uint64_t now = rf_now(), took = now - last;
        last = now;
        if (took >= LONGEST_NS) {
            was_in_vain(looking);
            if (may_yield && took >= LOSS_NS) {
                looking->yield_from = now + took * LOSS_SHARE;
            }
            return false;
        }
        looked += took < YIELD_NS ? (uint32_t)took : YIELD_NS;
    }
    return false;
}

bool rf_look(struct rf_looking *looking, const struct rf_queue *queue)
{
    if (looking->rest > 0 || looking->window_ns == 0) {
        return rf_queue_has_used(queue);
    }
    bool is_found = look_for(queue, LOOKS_ALONE) || look_yielding(looking, queue);
    if (is_found) {
        looking->next_rest = 1;
    }
    return is_found;
}

void rf_slept(struct rf_looking *looking, uint64_t slept_ns)
{
    uint32_t window = looking->window_ns;
    if (!looking->may_look) {
        return;
    }
    if (looking->rest > 0) {
        looking->rest--;
    } else if (slept_ns >= SOON_NS) {
        looking->window_ns = window > SHORTEST_NS ? window / 2 : 0;
    } else if (window < LONGEST_NS) {
        uint32_t longer = window * 4 < SHORTEST_NS ? SHORTEST_NS : window * 4;
        looking->window_ns = longer < LONGEST_NS ? longer : LONGEST_NS;
    } else {
        was_in_vain(looking);
    }
}
