/* IRQL: raising, lowering, and what spin locks do to it. */
#include "ktest.h"

KTEST(tests_start_at_passive_level)
{
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
}

KTEST(raise_returns_the_old_level)
{
    KIRQL first = 0xAA, second = 0xBB;
    KeRaiseIrql(APC_LEVEL, &first);
    CHECK_EQ(first, PASSIVE_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), APC_LEVEL);
    KeRaiseIrql(DISPATCH_LEVEL, &second);
    CHECK_EQ(second, APC_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    KeLowerIrql(second);
    CHECK_EQ(KeGetCurrentIrql(), APC_LEVEL);
    KeLowerIrql(first);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
}

KTEST(raise_to_the_same_level)
{
    KIRQL old;
    KeRaiseIrql(PASSIVE_LEVEL, &old);
    CHECK_EQ(old, PASSIVE_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    CHECK_EQ(old, PASSIVE_LEVEL);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    CHECK_EQ(old, DISPATCH_LEVEL);
    KeLowerIrql(DISPATCH_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    KeLowerIrql(PASSIVE_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
}

KTEST(every_level_is_kept)
{
    KIRQL old;
    KeRaiseIrql(3, &old);
    CHECK_EQ(KeGetCurrentIrql(), 3);
    KeRaiseIrql(8, &old);
    CHECK_EQ(old, 3);
    CHECK_EQ(KeGetCurrentIrql(), 8);
    KeRaiseIrql(HIGH_LEVEL, &old);
    CHECK_EQ(old, 8);
    CHECK_EQ(KeGetCurrentIrql(), HIGH_LEVEL);
    /* In one step. */
    KeLowerIrql(PASSIVE_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
}

KTEST(levels_are_nt_s)
{
    CHECK_EQ(PASSIVE_LEVEL, 0);
    CHECK_EQ(APC_LEVEL, 1);
    CHECK_EQ(DISPATCH_LEVEL, 2);
    CHECK_EQ(HIGH_LEVEL, sizeof(PVOID) == 8 ? 15 : 31);
}

KTEST(raise_to_dpc_level)
{
    KIRQL old = KeRaiseIrqlToDpcLevel();
    CHECK_EQ(old, PASSIVE_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    CHECK_EQ(KeRaiseIrqlToDpcLevel(), DISPATCH_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    KeLowerIrql(old);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    KeRaiseIrql(APC_LEVEL, &old);
    CHECK_EQ(KeRaiseIrqlToDpcLevel(), APC_LEVEL);
    KeLowerIrql(APC_LEVEL);
    KeLowerIrql(old);
}

KTEST(fast_raise_and_lower)
{
    CHECK_EQ(KfRaiseIrql(APC_LEVEL), PASSIVE_LEVEL);
    CHECK_EQ(KfRaiseIrql(DISPATCH_LEVEL), APC_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    KfLowerIrql(APC_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), APC_LEVEL);
    KfLowerIrql(PASSIVE_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
}

static KDPC dpc;
static volatile LONG dpc_runs;
static volatile KIRQL dpc_irql;

static VOID NTAPI count_dpc(PKDPC self, PVOID context, PVOID first, PVOID second)
{
    (VOID)self;
    (VOID)context;
    (VOID)first;
    (VOID)second;
    dpc_irql = KeGetCurrentIrql();
    dpc_runs++;
}

KTEST(dpc_waits_for_lower_irql)
{
    KIRQL old;
    dpc_runs = 0;
    dpc_irql = 0xFF;
    KeInitializeDpc(&dpc, count_dpc, NULL);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    CHECK(KeInsertQueueDpc(&dpc, NULL, NULL));
    CHECK_EQ(dpc_runs, 0);
    CHECK(!KeInsertQueueDpc(&dpc, NULL, NULL));
    CHECK_EQ(dpc_runs, 0);
    KeLowerIrql(old);
    CHECK_EQ(dpc_runs, 1);
    CHECK_EQ(dpc_irql, DISPATCH_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    /* From above DISPATCH_LEVEL, lowering to APC_LEVEL lets it in too. */
    KeRaiseIrql(HIGH_LEVEL, &old);
    CHECK(KeInsertQueueDpc(&dpc, NULL, NULL));
    KeLowerIrql(DISPATCH_LEVEL);
    CHECK_EQ(dpc_runs, 1);
    KeLowerIrql(APC_LEVEL);
    CHECK_EQ(dpc_runs, 2);
    CHECK_EQ(KeGetCurrentIrql(), APC_LEVEL);
    KeLowerIrql(old);
    CHECK_EQ(dpc_runs, 2);
}

KTEST(dpc_runs_at_once_below_dispatch_level)
{
    dpc_runs = 0;
    KeInitializeDpc(&dpc, count_dpc, NULL);
    CHECK(KeInsertQueueDpc(&dpc, NULL, NULL));
    CHECK_EQ(dpc_runs, 1);
    CHECK(!KeRemoveQueueDpc(&dpc));
}

KTEST(spin_lock_raises_to_dispatch_level)
{
    KSPIN_LOCK lock = 1;
    KIRQL old = 0xAA;
    KeInitializeSpinLock(&lock);
    CHECK_EQ(lock, 0);
    KeAcquireSpinLock(&lock, &old);
    CHECK_EQ(old, PASSIVE_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    KeReleaseSpinLock(&lock, old);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    CHECK_EQ(lock, 0);
}

KTEST(spin_locks_nest)
{
    KSPIN_LOCK outer, inner;
    KIRQL first, second;
    KeInitializeSpinLock(&outer);
    KeInitializeSpinLock(&inner);
    KeAcquireSpinLock(&outer, &first);
    KeAcquireSpinLock(&inner, &second);
    CHECK_EQ(second, DISPATCH_LEVEL);
    KeReleaseSpinLock(&inner, second);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    KeAcquireSpinLockAtDpcLevel(&inner);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    KeReleaseSpinLockFromDpcLevel(&inner);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    KeReleaseSpinLock(&outer, first);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
}

KTEST_BUGCHECK(lower_to_a_higher_level, 0x0A)
{
    KeLowerIrql(DISPATCH_LEVEL);
}

KTEST_BUGCHECK(raise_to_a_lower_level, 0x09)
{
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    KeRaiseIrql(APC_LEVEL, &old);
}

KTEST_BUGCHECK(spin_lock_acquired_twice, 0x0F)
{
    KSPIN_LOCK lock;
    KIRQL old;
    KeInitializeSpinLock(&lock);
    KeAcquireSpinLock(&lock, &old);
    KeAcquireSpinLock(&lock, &old);
}

KTEST_BUGCHECK(spin_lock_released_unowned, 0x10)
{
    KSPIN_LOCK lock;
    KeInitializeSpinLock(&lock);
    KeReleaseSpinLock(&lock, PASSIVE_LEVEL);
}

KTEST_FAMILY("irql",
    KTEST_ENTRY(tests_start_at_passive_level),
    KTEST_ENTRY(raise_returns_the_old_level),
    KTEST_ENTRY(raise_to_the_same_level),
    KTEST_ENTRY(every_level_is_kept),
    KTEST_ENTRY(levels_are_nt_s),
    KTEST_ENTRY(raise_to_dpc_level),
    KTEST_ENTRY(fast_raise_and_lower),
    KTEST_ENTRY(dpc_waits_for_lower_irql),
    KTEST_ENTRY(dpc_runs_at_once_below_dispatch_level),
    KTEST_ENTRY(spin_lock_raises_to_dispatch_level),
    KTEST_ENTRY(spin_locks_nest),
    KTEST_BUGCHECK_ENTRY(lower_to_a_higher_level),
    KTEST_BUGCHECK_ENTRY(raise_to_a_lower_level),
    KTEST_BUGCHECK_ENTRY(spin_lock_acquired_twice),
    KTEST_BUGCHECK_ENTRY(spin_lock_released_unowned));
