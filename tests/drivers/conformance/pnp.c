/* Plug and play, and power: a device of this driver's own that AddDevice makes, what its stack is asked, interfaces,
 * notifications, and power IRPs. */
#define KTEST_START pnp_start
#include "ktest.h"

NTKERNELAPI VOID NTAPI PoDeletePowerRequest(PVOID request);

static const GUID first_class = {0x11111111, 0x2222, 0x3333, {0x44, 0x44, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55}};
static const GUID second_class = {0xABCDEF01, 0x2222, 0x3333, {0x44, 0x44, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55}};

static PDEVICE_OBJECT physical, function, lower;
static volatile LONG state_queries, relation_queries;
static ULONG order, add_order, start_order, seen_minors;
static ULONG power_count, last_power_state;

static NTSTATUS NTAPI pnp_dispatch(PDEVICE_OBJECT device, PIRP irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    UCHAR minor = stack->MinorFunction;
    PDEVICE_OBJECT below = lower;
    seen_minors |= 1u << minor;
    state_queries += minor == IRP_MN_QUERY_PNP_DEVICE_STATE;
    relation_queries += minor == IRP_MN_QUERY_DEVICE_RELATIONS && stack->Parameters.QueryDeviceRelations.Type == BusRelations;
    if (minor == IRP_MN_START_DEVICE) {
        start_order = ++order;
    }
    if (minor == IRP_MN_START_DEVICE || minor == IRP_MN_QUERY_REMOVE_DEVICE || minor == IRP_MN_REMOVE_DEVICE ||
        minor == IRP_MN_QUERY_STOP_DEVICE || minor == IRP_MN_STOP_DEVICE) {
        irp->IoStatus.Status = STATUS_SUCCESS;
    }
    IoSkipCurrentIrpStackLocation(irp);
    NTSTATUS status = IoCallDriver(below, irp);
    if (minor == IRP_MN_REMOVE_DEVICE) {
        IoDetachDevice(below);
        IoDeleteDevice(device);
        function = lower = NULL;
    }
    return status;
}

static NTSTATUS NTAPI pnp_power(PDEVICE_OBJECT device, PIRP irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    (VOID)device;
    power_count++;
    if (stack->MinorFunction == IRP_MN_SET_POWER) {
        last_power_state = stack->Parameters.Power.State.DeviceState;
        POWER_STATE state = stack->Parameters.Power.State;
        PoSetPowerState(device, stack->Parameters.Power.Type, state);
    }
    PoStartNextPowerIrp(irp);
    IoSkipCurrentIrpStackLocation(irp);
    return PoCallDriver(lower, irp);
}

static NTSTATUS NTAPI pnp_add(PDRIVER_OBJECT driver, PDEVICE_OBJECT pdo)
{
    add_order = ++order;
    physical = pdo;
    NTSTATUS status = IoCreateDevice(driver, 0, NULL, FILE_DEVICE_UNKNOWN, 0, FALSE, &function);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    lower = IoAttachDeviceToDeviceStack(function, pdo);
    function->Flags &= ~DO_DEVICE_INITIALIZING;
    return STATUS_SUCCESS;
}

static VOID pnp_start(PDRIVER_OBJECT driver)
{
    driver->DriverExtension->AddDevice = pnp_add;
    driver->MajorFunction[IRP_MJ_PNP] = pnp_dispatch;
    driver->MajorFunction[IRP_MJ_POWER] = pnp_power;
}

/* Sends the stack an IRP_MJ_PNP and waits. */
static NTSTATUS ask(UCHAR minor, ULONG_PTR first, ULONG_PTR second, ULONG_PTR *information)
{
    KEVENT event;
    IO_STATUS_BLOCK block;
    KeInitializeEvent(&event, NotificationEvent, FALSE);
    PIRP irp = IoBuildSynchronousFsdRequest(IRP_MJ_PNP, function, NULL, 0, NULL, &event, &block);
    if (irp == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    irp->IoStatus.Status = STATUS_NOT_SUPPORTED;
    irp->IoStatus.Information = 0;
    PIO_STACK_LOCATION stack = IoGetNextIrpStackLocation(irp);
    stack->MinorFunction = minor;
    stack->Parameters.Others.Argument1 = (PVOID)first;
    stack->Parameters.Others.Argument2 = (PVOID)second;
    block.Information = 0;
    NTSTATUS status = IoCallDriver(function, irp);
    if (status == STATUS_PENDING) {
        KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, NULL);
        status = block.Status;
    }
    *information = NT_SUCCESS(status) ? block.Information : 0;
    return status;
}

KTEST(load)
{
    CHECK_EQ(add_order, 1);
    CHECK_EQ(start_order, 2);
    CHECK(physical != NULL);
    CHECK_PTR(lower, physical);
    CHECK_PTR(physical->AttachedDevice, function);
    CHECK_EQ(function->StackSize, 2);
    CHECK(physical->DriverObject != ktest_driver);
    UNICODE_STRING manager;
    RtlInitUnicodeString(&manager, L"\\Driver\\PnpManager");
    CHECK(RtlEqualUnicodeString(&physical->DriverObject->DriverName, &manager, FALSE));
    CHECK_EQ(physical->Flags & DO_DEVICE_INITIALIZING, 0);
    CHECK_EQ(physical->Flags & DO_BUS_ENUMERATED_DEVICE, DO_BUS_ENUMERATED_DEVICE);
    CHECK(seen_minors & 1u << IRP_MN_START_DEVICE);
    CHECK(seen_minors & 1u << IRP_MN_QUERY_CAPABILITIES);
    CHECK(seen_minors & 1u << IRP_MN_QUERY_PNP_DEVICE_STATE);
    CHECK(seen_minors & 1u << IRP_MN_QUERY_RESOURCE_REQUIREMENTS);
    CHECK(seen_minors & 1u << IRP_MN_FILTER_RESOURCE_REQUIREMENTS);
    CHECK(seen_minors & 1u << IRP_MN_QUERY_DEVICE_RELATIONS);
    CHECK_EQ(seen_minors & 1u << IRP_MN_STOP_DEVICE, 0);
    CHECK_EQ(seen_minors & 1u << IRP_MN_REMOVE_DEVICE, 0);
}

KTEST(questions)
{
    ULONG_PTR information;
    CHECK_STATUS(ask(IRP_MN_QUERY_ID, BusQueryDeviceID, 0, &information), STATUS_SUCCESS);
    CHECK_MEM((PVOID)information, L"ROOT\\PNP", sizeof(L"ROOT\\PNP"));
    ExFreePool((PVOID)information);
    CHECK_STATUS(ask(IRP_MN_QUERY_ID, BusQueryInstanceID, 0, &information), STATUS_SUCCESS);
    CHECK_MEM((PVOID)information, L"0000", 10);
    ExFreePool((PVOID)information);
    CHECK_STATUS(ask(IRP_MN_QUERY_ID, BusQueryHardwareIDs, 0, &information), STATUS_SUCCESS);
    CHECK_MEM((PVOID)information, L"ROOT\\PNP\0*pnp\0", 30);
    ExFreePool((PVOID)information);
    CHECK_STATUS(ask(IRP_MN_QUERY_ID, BusQueryCompatibleIDs, 0, &information), STATUS_SUCCESS);
    ExFreePool((PVOID)information);
    CHECK_STATUS(ask(IRP_MN_QUERY_ID, 77, 0, &information), STATUS_NOT_SUPPORTED);
    CHECK_STATUS(ask(IRP_MN_QUERY_DEVICE_TEXT, 0, 0x409, &information), STATUS_SUCCESS);
    CHECK_MEM((PVOID)information, L"pnp", 8);
    ExFreePool((PVOID)information);
    CHECK_STATUS(ask(IRP_MN_QUERY_DEVICE_TEXT, 1, 0x409, &information), STATUS_NOT_SUPPORTED);
    CHECK_STATUS(ask(IRP_MN_QUERY_BUS_INFORMATION, 0, 0, &information), STATUS_SUCCESS);
    PNP_BUS_INFORMATION *bus = (PVOID)information;
    CHECK_EQ(bus->LegacyBusType, PNPBus);
    CHECK_EQ(bus->BusNumber, 0);
    CHECK_EQ(bus->BusTypeGuid.Data1, 0x1530ea73);
    ExFreePool(bus);
    CHECK_STATUS(ask(IRP_MN_QUERY_DEVICE_RELATIONS, TargetDeviceRelation, 0, &information), STATUS_SUCCESS);
    DEVICE_RELATIONS *relations = (PVOID)information;
    CHECK_EQ(relations->Count, 1);
    CHECK_PTR(relations->Objects[0], physical);
    ObDereferenceObject(relations->Objects[0]);
    ExFreePool(relations);
    CHECK_STATUS(ask(IRP_MN_QUERY_DEVICE_RELATIONS, BusRelations, 0, &information), STATUS_NOT_SUPPORTED);
    CHECK_STATUS(ask(IRP_MN_QUERY_DEVICE_RELATIONS, RemovalRelations, 0, &information), STATUS_NOT_SUPPORTED);
    CHECK_STATUS(ask(IRP_MN_QUERY_INTERFACE, 0, 0, &information), STATUS_NOT_SUPPORTED);
    CHECK_STATUS(ask(IRP_MN_QUERY_RESOURCES, 0, 0, &information), STATUS_NOT_SUPPORTED);
    CHECK_STATUS(ask(IRP_MN_EJECT, 0, 0, &information), STATUS_NOT_SUPPORTED);
    CHECK_STATUS(ask(IRP_MN_QUERY_PNP_DEVICE_STATE, 0, 0, &information), STATUS_SUCCESS);
    CHECK_EQ(information, 0);
    CHECK_STATUS(ask(IRP_MN_DEVICE_USAGE_NOTIFICATION, 1, 1, &information), STATUS_SUCCESS);
    CHECK_STATUS(ask(IRP_MN_QUERY_STOP_DEVICE, 0, 0, &information), STATUS_SUCCESS);
    CHECK_STATUS(ask(IRP_MN_CANCEL_STOP_DEVICE, 0, 0, &information), STATUS_SUCCESS);
    CHECK_STATUS(ask(IRP_MN_QUERY_REMOVE_DEVICE, 0, 0, &information), STATUS_SUCCESS);
    CHECK_STATUS(ask(IRP_MN_CANCEL_REMOVE_DEVICE, 0, 0, &information), STATUS_SUCCESS);
}

KTEST(capabilities)
{
    DEVICE_CAPABILITIES capabilities;
    ULONG_PTR information;
    RtlZeroMemory(&capabilities, sizeof(capabilities));
    CHECK_EQ(sizeof(capabilities), 64);
    capabilities.Size = sizeof(capabilities);
    CHECK_STATUS(ask(IRP_MN_QUERY_CAPABILITIES, (ULONG_PTR)&capabilities, 0, &information), STATUS_INVALID_PARAMETER);
    capabilities.Version = 1;
    capabilities.Address = capabilities.UINumber = (ULONG)-1;
    CHECK_STATUS(ask(IRP_MN_QUERY_CAPABILITIES, (ULONG_PTR)&capabilities, 0, &information), STATUS_SUCCESS);
    CHECK_EQ(capabilities.DeviceState[PowerSystemWorking], PowerDeviceD0);
    CHECK_EQ(capabilities.DeviceState[PowerSystemSleeping1], PowerDeviceD3);
    CHECK_EQ(capabilities.DeviceState[PowerSystemSleeping3], PowerDeviceD3);
    CHECK_EQ(capabilities.DeviceState[PowerSystemShutdown], PowerDeviceD3);
    CHECK_EQ(capabilities.UniqueID, 1);
    CHECK_EQ(capabilities.Removable, 0);
    CHECK_EQ(capabilities.EjectSupported, 0);
    CHECK_EQ(capabilities.Address, (ULONG)-1);
    CHECK_EQ(capabilities.DeviceWake, PowerDeviceUnspecified);
}

KTEST(property)
{
    WCHAR text[80];
    ULONG bytes = 77, number = 5;
    CHECK_STATUS(IoGetDeviceProperty(function, DevicePropertyClassName, sizeof(text), text, &bytes), STATUS_INVALID_DEVICE_REQUEST);
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyDeviceDescription, 0, NULL, &bytes), STATUS_BUFFER_TOO_SMALL);
    CHECK_EQ(bytes, 8);
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyDeviceDescription, 7, text, &bytes), STATUS_BUFFER_TOO_SMALL);
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyDeviceDescription, 8, text, &bytes), STATUS_SUCCESS);
    CHECK_MEM(text, L"pnp", 8);
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyHardwareID, sizeof(text), text, &bytes), STATUS_SUCCESS);
    CHECK_MEM(text, L"ROOT\\PNP\0*pnp\0", 30);
    CHECK_EQ(bytes, 30);
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyCompatibleIDs, sizeof(text), text, &bytes), STATUS_SUCCESS);
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyClassName, sizeof(text), text, &bytes), STATUS_SUCCESS);
    CHECK_MEM(text, L"System", 14);
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyClassGuid, sizeof(text), text, &bytes), STATUS_SUCCESS);
    CHECK_EQ(bytes, 39 * 2);
    CHECK_EQ(text[0], L'{');
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyDriverKeyName, sizeof(text), text, &bytes), STATUS_SUCCESS);
    CHECK_EQ(bytes, 44 * 2);
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyManufacturer, sizeof(text), text, &bytes), STATUS_OBJECT_NAME_NOT_FOUND);
    CHECK_EQ(bytes, 0);
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyFriendlyName, sizeof(text), text, &bytes), STATUS_OBJECT_NAME_NOT_FOUND);
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyLocationInformation, sizeof(text), text, &bytes), STATUS_OBJECT_NAME_NOT_FOUND);
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyPhysicalDeviceObjectName, sizeof(text), text, &bytes), STATUS_SUCCESS);
    CHECK_MEM(text, L"\\Device\\", 16);
    CHECK_EQ(bytes, 17 * 2);
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyBusTypeGuid, sizeof(text), text, &bytes), STATUS_SUCCESS);
    CHECK_EQ(bytes, sizeof(GUID));
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyLegacyBusType, sizeof(number), &number, &bytes), STATUS_SUCCESS);
    CHECK_EQ(number, PNPBus);
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyBusNumber, sizeof(number), &number, &bytes), STATUS_SUCCESS);
    CHECK_EQ(number, 0);
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyEnumeratorName, sizeof(text), text, &bytes), STATUS_SUCCESS);
    CHECK_MEM(text, L"ROOT", 10);
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyAddress, sizeof(number), &number, &bytes), STATUS_OBJECT_NAME_NOT_FOUND);
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyInstallState, sizeof(number), &number, &bytes), STATUS_SUCCESS);
    CHECK_EQ(number, 0);
    CHECK_STATUS(IoGetDeviceProperty(physical, DevicePropertyBootConfiguration, sizeof(text), text, &bytes), STATUS_SUCCESS);
    CHECK_EQ(bytes, 0);
    CHECK_STATUS(IoGetDeviceProperty(physical, (DEVICE_REGISTRY_PROPERTY)99, sizeof(text), text, &bytes), STATUS_INVALID_PARAMETER_2);
}

KTEST(registry_key)
{
    HANDLE key = NULL, profile = NULL;
    ULONG value = 7, length = 0;
    struct { ULONG index, type, bytes, data; } found;
    UNICODE_STRING name;
    RtlInitUnicodeString(&name, L"KTest");
    for (ULONG kind = PLUGPLAY_REGKEY_DEVICE; kind <= PLUGPLAY_REGKEY_DRIVER; kind++) {
        /* A hardware profile's key is another one. */
        CHECK_STATUS(IoOpenDeviceRegistryKey(physical, kind, KEY_ALL_ACCESS, &key), STATUS_SUCCESS);
        CHECK_STATUS(IoOpenDeviceRegistryKey(physical, kind | PLUGPLAY_REGKEY_CURRENT_HWPROFILE, KEY_ALL_ACCESS, &profile),
                     STATUS_SUCCESS);
        CHECK_STATUS(ZwSetValueKey(profile, &name, 0, REG_DWORD, &value, 4), STATUS_SUCCESS);
        CHECK_STATUS(ZwQueryValueKey(key, &name, KeyValuePartialInformation, &found, 16, &length),
                     STATUS_OBJECT_NAME_NOT_FOUND);
        CHECK_STATUS(ZwQueryValueKey(profile, &name, KeyValuePartialInformation, &found, 16, &length), STATUS_SUCCESS);
        CHECK_STATUS(ZwClose(profile), STATUS_SUCCESS);
        CHECK_STATUS(IoOpenDeviceRegistryKey(physical, kind | PLUGPLAY_REGKEY_CURRENT_HWPROFILE, KEY_READ, &profile),
                     STATUS_SUCCESS);
        CHECK_STATUS(ZwQueryValueKey(profile, &name, KeyValuePartialInformation, &found, 16, &length), STATUS_SUCCESS);
        CHECK_EQ(found.data, 7);
        CHECK_STATUS(ZwClose(profile), STATUS_SUCCESS);
        CHECK_STATUS(ZwClose(key), STATUS_SUCCESS);
    }
    CHECK_STATUS(IoOpenDeviceRegistryKey(physical, PLUGPLAY_REGKEY_CURRENT_HWPROFILE, KEY_READ, &key),
                 STATUS_INVALID_PARAMETER);
    CHECK_STATUS(IoOpenDeviceRegistryKey(physical, PLUGPLAY_REGKEY_DEVICE, KEY_READ, &key), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(key), STATUS_SUCCESS);
    CHECK_STATUS(IoOpenDeviceRegistryKey(physical, PLUGPLAY_REGKEY_DRIVER, KEY_READ, &key), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(key), STATUS_SUCCESS);
    CHECK_STATUS(IoOpenDeviceRegistryKey(function, PLUGPLAY_REGKEY_DEVICE, KEY_READ, &key), STATUS_INVALID_DEVICE_REQUEST);
}

static ULONG arrivals, removals;
static NTSTATUS NTAPI on_interface(PVOID notification, PVOID context)
{
    DEVICE_INTERFACE_CHANGE_NOTIFICATION *change = notification;
    CHECK_PTR(context, &arrivals);
    CHECK_EQ(change->Version, 1);
    CHECK_EQ(change->Size, sizeof(*change));
    CHECK_MEM(&change->InterfaceClassGuid, &first_class, sizeof(GUID));
    CHECK(change->SymbolicLinkName->Length > 16);
    if (change->Event.Data1 == 0xcb3a4004) {
        arrivals++;
    } else if (change->Event.Data1 == 0xcb3a4005) {
        removals++;
    }
    return STATUS_SUCCESS;
}

KTEST(interface)
{
    UNICODE_STRING name, again, alias, reference;
    PWSTR list = NULL;
    PVOID entry = NULL;
    HANDLE key;
    CHECK_STATUS(IoRegisterDeviceInterface(function, &first_class, NULL, &name), STATUS_INVALID_DEVICE_REQUEST);
    CHECK_STATUS(IoRegisterDeviceInterface(physical, &first_class, NULL, &name), STATUS_SUCCESS);
    CHECK_MEM(name.Buffer, L"\\??\\ROOT#PNP#0000#{11111111-2222-3333-4444-555555555555}", 57 * 2);
    CHECK_EQ(name.Length, 56 * 2);
    CHECK_STATUS(IoRegisterDeviceInterface(physical, &first_class, NULL, &again), STATUS_SUCCESS);
    CHECK(RtlEqualUnicodeString(&name, &again, FALSE));
    RtlFreeUnicodeString(&again);
    RtlInitUnicodeString(&reference, L"a\\b");
    CHECK_STATUS(IoRegisterDeviceInterface(physical, &first_class, &reference, &again), STATUS_INVALID_DEVICE_REQUEST);
    CHECK_STATUS(IoGetDeviceInterfaces(&first_class, NULL, 0, &list), STATUS_SUCCESS);
    CHECK_EQ(list[0], 0);
    ExFreePool(list);
    CHECK_STATUS(IoGetDeviceInterfaces(&first_class, NULL, DEVICE_INTERFACE_INCLUDE_NONACTIVE, &list), STATUS_SUCCESS);
    CHECK_MEM(list, name.Buffer, name.Length);
    CHECK_EQ(list[56] | list[57], 0);
    ExFreePool(list);
    CHECK_STATUS(IoSetDeviceInterfaceState(&name, FALSE), STATUS_OBJECT_NAME_NOT_FOUND);
    CHECK_STATUS(IoSetDeviceInterfaceState(&reference, TRUE), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(IoSetDeviceInterfaceState(&name, TRUE), STATUS_SUCCESS);
    CHECK_STATUS(IoSetDeviceInterfaceState(&name, TRUE), STATUS_OBJECT_NAME_EXISTS);
    CHECK_STATUS(IoRegisterPlugPlayNotification(EventCategoryDeviceInterfaceChange,
        PNPNOTIFY_DEVICE_INTERFACE_INCLUDE_EXISTING_INTERFACES, (PVOID)&first_class, ktest_driver, on_interface, &arrivals,
        &entry), STATUS_SUCCESS);
    CHECK_EQ(arrivals, 1);
    CHECK_STATUS(IoGetDeviceInterfaces(&first_class, NULL, 0, &list), STATUS_SUCCESS);
    CHECK_MEM(list, name.Buffer, name.Length);
    ExFreePool(list);
    CHECK_STATUS(IoGetDeviceInterfaces(&first_class, physical, 0, &list), STATUS_SUCCESS);
    CHECK(list[0] != 0);
    ExFreePool(list);
    CHECK_STATUS(IoGetDeviceInterfaces(&first_class, function, 0, &list), STATUS_INVALID_DEVICE_REQUEST);
    CHECK_STATUS(IoGetDeviceInterfaces(&second_class, NULL, 1, &list), STATUS_SUCCESS);
    CHECK_EQ(list[0], 0);
    ExFreePool(list);
    PFILE_OBJECT file;
    PDEVICE_OBJECT found;
    CHECK_STATUS(IoGetDeviceObjectPointer(&name, FILE_READ_DATA, &file, &found), STATUS_SUCCESS);
    CHECK_PTR(found, function);
    CHECK_PTR(file->DeviceObject, physical);
    ObDereferenceObject(file);
    CHECK_STATUS(IoGetDeviceInterfaceAlias(&name, &second_class, &alias), STATUS_OBJECT_NAME_NOT_FOUND);
    CHECK_STATUS(IoRegisterDeviceInterface(physical, &second_class, NULL, &again), STATUS_SUCCESS);
    CHECK_STATUS(IoGetDeviceInterfaceAlias(&name, &second_class, &alias), STATUS_SUCCESS);
    CHECK(RtlEqualUnicodeString(&alias, &again, FALSE));
    RtlFreeUnicodeString(&alias);
    RtlFreeUnicodeString(&again);
    CHECK_STATUS(IoOpenDeviceInterfaceRegistryKey(&name, KEY_READ, &key), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(key), STATUS_SUCCESS);
    CHECK_STATUS(IoOpenDeviceInterfaceRegistryKey(&reference, KEY_READ, &key), STATUS_OBJECT_NAME_NOT_FOUND);
    CHECK_STATUS(IoSetDeviceInterfaceState(&name, FALSE), STATUS_SUCCESS);
    CHECK_EQ(removals, 1);
    CHECK_STATUS(IoGetDeviceObjectPointer(&name, FILE_READ_DATA, &file, &found), STATUS_OBJECT_NAME_NOT_FOUND);
    CHECK_STATUS(IoSetDeviceInterfaceState(&name, TRUE), STATUS_SUCCESS);
    CHECK_EQ(arrivals, 2);
    CHECK_STATUS(IoUnregisterPlugPlayNotification(entry), STATUS_SUCCESS);
    CHECK_STATUS(IoSetDeviceInterfaceState(&name, FALSE), STATUS_SUCCESS);
    CHECK_EQ(removals, 1);
    RtlFreeUnicodeString(&name);
    CHECK_STATUS(IoRegisterPlugPlayNotification(9, 0, NULL, ktest_driver, on_interface, NULL, &entry), STATUS_INVALID_PARAMETER);
}

static ULONG completions;
static ULONG completed_state, completed_status, completed_minor;
static PDEVICE_OBJECT completed_device;
static VOID NTAPI on_power(PDEVICE_OBJECT device, UCHAR minor, POWER_STATE state, PVOID context, PIO_STATUS_BLOCK block)
{
    CHECK_PTR(context, &completions);
    completed_device = device;
    completed_minor = minor;
    completed_state = state.DeviceState;
    completed_status = (ULONG)block->Status;
    completions++;
}

KTEST(power)
{
    POWER_STATE state = {.DeviceState = PowerDeviceD3};
    PIRP irp = NULL;
    ULONG before = power_count;
    CHECK_STATUS(PoRequestPowerIrp(function, IRP_MN_SET_POWER, state, on_power, &completions, &irp), STATUS_PENDING);
    CHECK(irp != NULL);
    CHECK_EQ(power_count, before + 1);
    CHECK_EQ(last_power_state, PowerDeviceD3);
    CHECK_EQ(completions, 1);
    CHECK_PTR(completed_device, function);
    CHECK_EQ(completed_minor, IRP_MN_SET_POWER);
    CHECK_EQ(completed_state, PowerDeviceD3);
    CHECK_STATUS(completed_status, STATUS_SUCCESS);
    state.DeviceState = PowerDeviceD0;
    CHECK_STATUS(PoRequestPowerIrp(physical, IRP_MN_QUERY_POWER, state, on_power, &completions, NULL), STATUS_PENDING);
    CHECK_PTR(completed_device, physical);
    CHECK_EQ(completed_minor, IRP_MN_QUERY_POWER);
    CHECK_EQ(last_power_state, PowerDeviceD3);
    CHECK_STATUS(PoRequestPowerIrp(function, IRP_MN_SET_POWER, state, NULL, NULL, NULL), STATUS_PENDING);
    CHECK_EQ(last_power_state, PowerDeviceD0);
    CHECK_EQ(completions, 2);
    CHECK_STATUS(PoRequestPowerIrp(function, IRP_MN_POWER_SEQUENCE, state, NULL, NULL, NULL), STATUS_INVALID_PARAMETER_2);
    state.DeviceState = PowerDeviceUnspecified;
    CHECK_STATUS(PoRequestPowerIrp(function, IRP_MN_SET_POWER, state, NULL, NULL, NULL), STATUS_INVALID_PARAMETER_3);
    state.SystemState = PowerSystemWorking;
    CHECK_STATUS(PoRequestPowerIrp(function, IRP_MN_WAIT_WAKE, state, on_power, &completions, NULL), STATUS_PENDING);
    CHECK_EQ(completed_minor, IRP_MN_WAIT_WAKE);
    CHECK_STATUS(completed_status, STATUS_NOT_SUPPORTED);
    state.DeviceState = PowerDeviceD2;
    CHECK_EQ(PoSetPowerState(function, DevicePowerState, state).DeviceState, PowerDeviceD0);
    state.DeviceState = PowerDeviceD0;
    CHECK_EQ(PoSetPowerState(function, DevicePowerState, state).DeviceState, PowerDeviceD2);
    state.SystemState = PowerSystemWorking;
    CHECK_EQ(PoSetPowerState(function, SystemPowerState, state).SystemState, PowerSystemUnspecified);
    CHECK_EQ(PoSetPowerState(function, SystemPowerState, state).SystemState, PowerSystemWorking);
}

KTEST(power_state)
{
    PVOID handle = PoRegisterSystemState(NULL, ES_CONTINUOUS | ES_SYSTEM_REQUIRED);
    CHECK(handle != NULL);
    CHECK_PTR(PoRegisterSystemState(handle, ES_CONTINUOUS), handle);
    CHECK_PTR(PoRegisterSystemState(NULL, 0x100), NULL);
    PoUnregisterSystemState(handle);
    PULONG idle = PoRegisterDeviceForIdleDetection(function, 10, 20, PowerDeviceD3);
    CHECK(idle != NULL);
    PoSetDeviceBusy(idle);
    CHECK_EQ(*idle, 0);
    CHECK_PTR(PoRegisterDeviceForIdleDetection(function, 0, 0, PowerDeviceD3), NULL);
}

/* Lets the PnP manager's thread work until a count is there. */
static VOID wait_for(volatile LONG *count, LONG wanted)
{
    LARGE_INTEGER tick = {.QuadPart = -10000};
    for (int i = 0; i < 1000 && *count < wanted; i++) {
        KeDelayExecutionThread(KernelMode, FALSE, &tick);
    }
    CHECK_EQ(*count, wanted);
}

KTEST(invalidate)
{
    LONG states = state_queries, relations = relation_queries;
    IoInvalidateDeviceState(physical);
    wait_for(&state_queries, states + 1);
    CHECK_EQ(relation_queries, relations);
    IoInvalidateDeviceRelations(physical, EjectionRelations);
    IoInvalidateDeviceRelations(physical, BusRelations);
    wait_for(&relation_queries, relations + 1);
    CHECK_EQ(state_queries, states + 1);
}

static volatile LONG ejections;
static NTSTATUS ejection_status;
static VOID NTAPI on_eject(NTSTATUS status, PVOID context)
{
    CHECK_PTR(context, &ejections);
    ejection_status = status;
    ejections++;
}

/* The last test: the device has no driver then. */
KTEST(eject)
{
    CHECK_STATUS(IoRequestDeviceEjectEx(physical, on_eject, (PVOID)&ejections, NULL), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(IoRequestDeviceEjectEx(physical, on_eject, (PVOID)&ejections, ktest_driver), STATUS_SUCCESS);
    wait_for(&ejections, 1);
    CHECK_STATUS(ejection_status, STATUS_NOT_SUPPORTED);
    CHECK_PTR(function, NULL);
    CHECK_PTR(physical->AttachedDevice, NULL);
}

KTEST_BUGCHECK(invalidate_function_device, 0xCA)
{
    IoInvalidateDeviceState(function);
}

KTEST_FAMILY("pnp", KTEST_ENTRY(load), KTEST_ENTRY(questions), KTEST_ENTRY(capabilities), KTEST_ENTRY(property),
             KTEST_ENTRY(registry_key), KTEST_ENTRY(interface), KTEST_ENTRY(power), KTEST_ENTRY(power_state),
             KTEST_ENTRY(invalidate), KTEST_ENTRY(eject), KTEST_BUGCHECK_ENTRY(invalidate_function_device));
