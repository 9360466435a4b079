/* Reads and writes ports and physical memory for its client, LabVIEW's way. See ../include/portio.h. */
#include "driver.h"
#include "../include/portio.h"

#define DEVICE_PATH L"\\Device\\portio"
#define LINK_PATH L"\\DosDevices\\portio"
#define IO_SPACE 1u
#define MAPPINGS 8u
#define MEMORY_MAX 65536u

struct mapping {
    PUCHAR address; /* NULL: free */
    ULONG length;
};
static struct mapping mappings[MAPPINGS];

/* A register in the space where its bus address turned out to be. */
struct target {
    BOOLEAN is_memory;
    PVOID address;
    ULONG width;
};

static BOOLEAN is_width(ULONG width)
{
    return width == 1 || width == 2 || width == 4;
}

static BOOLEAN is_memory_request(const struct portio_memory *memory)
{
    return is_width(memory->width) && memory->length != 0 && memory->length <= MEMORY_MAX &&
           (memory->length & (memory->width - 1)) == 0 && ((ULONG)memory->address & (memory->width - 1)) == 0;
}

static NTSTATUS open_target(const struct portio_access *access, struct target *target)
{
    PHYSICAL_ADDRESS bus_address;
    PHYSICAL_ADDRESS translated;
    ULONG space = IO_SPACE;

    if (!is_width(access->width) || access->port > 0xFFFF) {
        return STATUS_INVALID_PARAMETER;
    }
    bus_address.QuadPart = access->port;
    if (!HalTranslateBusAddress(Isa, 0, bus_address, &space, &translated)) {
        return STATUS_NO_SUCH_DEVICE;
    }
    target->width = access->width;
    target->is_memory = space != IO_SPACE;
    if (target->is_memory) {
        target->address = MmMapIoSpace(translated, access->width, MmNonCached);
        return target->address != NULL ? STATUS_SUCCESS : STATUS_INSUFFICIENT_RESOURCES;
    }
    target->address = (PVOID)(ULONG_PTR)translated.LowPart;
    return STATUS_SUCCESS;
}

static VOID close_target(const struct target *target)
{
    if (target->is_memory) {
        MmUnmapIoSpace(target->address, target->width);
    }
}

static ULONG read_register(PVOID address, ULONG width)
{
    switch (width) {
    case 1:
        return READ_REGISTER_UCHAR(address);
    case 2:
        return READ_REGISTER_USHORT(address);
    default:
        return READ_REGISTER_ULONG(address);
    }
}

static VOID write_register(PVOID address, ULONG width, ULONG value)
{
    switch (width) {
    case 1:
        WRITE_REGISTER_UCHAR(address, (UCHAR)value);
        break;
    case 2:
        WRITE_REGISTER_USHORT(address, (USHORT)value);
        break;
    default:
        WRITE_REGISTER_ULONG(address, value);
        break;
    }
}

static ULONG read_port(PVOID port, ULONG width)
{
    switch (width) {
    case 1:
        return READ_PORT_UCHAR(port);
    case 2:
        return READ_PORT_USHORT(port);
    default:
        return READ_PORT_ULONG(port);
    }
}

static VOID write_port(PVOID port, ULONG width, ULONG value)
{
    switch (width) {
    case 1:
        WRITE_PORT_UCHAR(port, (UCHAR)value);
        break;
    case 2:
        WRITE_PORT_USHORT(port, (USHORT)value);
        break;
    default:
        WRITE_PORT_ULONG(port, value);
        break;
    }
}

static ULONG read_inline(USHORT port, ULONG width)
{
    ULONG value = 0;
    switch (width) {
    case 1:
        __asm__ volatile("inb %w1, %b0" : "+a"(value) : "Nd"(port));
        break;
    case 2:
        __asm__ volatile("inw %w1, %w0" : "+a"(value) : "Nd"(port));
        break;
    default:
        __asm__ volatile("inl %w1, %0" : "=a"(value) : "Nd"(port));
        break;
    }
    return value;
}

static VOID write_inline(USHORT port, ULONG width, ULONG value)
{
    switch (width) {
    case 1:
        __asm__ volatile("outb %b0, %w1" : : "a"(value), "Nd"(port));
        break;
    case 2:
        __asm__ volatile("outw %w0, %w1" : : "a"(value), "Nd"(port));
        break;
    default:
        __asm__ volatile("outl %0, %w1" : : "a"(value), "Nd"(port));
        break;
    }
}

static VOID copy_from_registers(PUCHAR to, PUCHAR from, ULONG length, ULONG width)
{
    for (ULONG at = 0; at < length; at += width) {
        ULONG value = read_register(from + at, width);
        for (ULONG byte = 0; byte < width; byte++) {
            to[at + byte] = (UCHAR)(value >> (8 * byte));
        }
    }
}

static VOID copy_to_registers(PUCHAR to, const UCHAR *from, ULONG length, ULONG width)
{
    for (ULONG at = 0; at < length; at += width) {
        ULONG value = 0;
        for (ULONG byte = 0; byte < width; byte++) {
            value |= (ULONG)from[at + byte] << (8 * byte);
        }
        write_register(to + at, width, value);
    }
}

/* One request's buffer, which holds the input and is given back as the output. */
struct request {
    PVOID buffer;
    ULONG input_bytes;
    ULONG output_bytes;
    ULONG_PTR information;
};

static NTSTATUS answer_ulong(struct request *request, ULONG value)
{
    if (request->output_bytes < sizeof(rf_u32)) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    *(rf_u32 *)request->buffer = value;
    request->information = sizeof(rf_u32);
    return STATUS_SUCCESS;
}

static NTSTATUS access_port(struct request *request, BOOLEAN is_write)
{
    const struct portio_access *access = request->buffer;
    struct target target;
    ULONG value = 0;

    if (request->input_bytes < (is_write ? sizeof(*access) : FIELD_OFFSET(struct portio_access, value))) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    NTSTATUS status = open_target(access, &target);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    if (is_write && target.is_memory) {
        write_register(target.address, target.width, access->value);
    } else if (is_write) {
        write_port(target.address, target.width, access->value);
    } else if (target.is_memory) {
        value = read_register(target.address, target.width);
    } else {
        value = read_port(target.address, target.width);
    }
    close_target(&target);
    return is_write ? STATUS_SUCCESS : answer_ulong(request, value);
}

static NTSTATUS access_inline(struct request *request, BOOLEAN is_write)
{
    const struct portio_access *access = request->buffer;

    if (request->input_bytes < (is_write ? sizeof(*access) : FIELD_OFFSET(struct portio_access, value))) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    if (!is_width(access->width) || access->port > 0xFFFF) {
        return STATUS_INVALID_PARAMETER;
    }
    if (is_write) {
        write_inline((USHORT)access->port, access->width, access->value);
        return STATUS_SUCCESS;
    }
    return answer_ulong(request, read_inline((USHORT)access->port, access->width));
}

static NTSTATUS read_port_buffer(struct request *request)
{
    struct target target;
    if (request->input_bytes < FIELD_OFFSET(struct portio_access, value)) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    NTSTATUS status = open_target(request->buffer, &target);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    ULONG shift = target.width / 2; /* log2 of 1, 2, 4 */
    ULONG count = request->output_bytes >> shift;
    if (target.is_memory) {
        for (ULONG i = 0; i < count; i++) {
            copy_from_registers((PUCHAR)request->buffer + (i << shift), target.address, target.width, target.width);
        }
    } else if (target.width == 1) {
        READ_PORT_BUFFER_UCHAR(target.address, request->buffer, count);
    } else if (target.width == 2) {
        READ_PORT_BUFFER_USHORT(target.address, request->buffer, count);
    } else {
        READ_PORT_BUFFER_ULONG(target.address, request->buffer, count);
    }
    close_target(&target);
    request->information = count << shift;
    return STATUS_SUCCESS;
}

static NTSTATUS write_port_buffer(struct request *request)
{
    struct target target;
    ULONG header_bytes = FIELD_OFFSET(struct portio_access, value);
    if (request->input_bytes < header_bytes) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    NTSTATUS status = open_target(request->buffer, &target);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    PVOID values = (PUCHAR)request->buffer + header_bytes;
    ULONG shift = target.width / 2; /* log2 of 1, 2, 4 */
    ULONG count = (request->input_bytes - header_bytes) >> shift;
    if (target.is_memory) {
        for (ULONG i = 0; i < count; i++) {
            copy_to_registers(target.address, (PUCHAR)values + (i << shift), target.width, target.width);
        }
    } else if (target.width == 1) {
        WRITE_PORT_BUFFER_UCHAR(target.address, values, count);
    } else if (target.width == 2) {
        WRITE_PORT_BUFFER_USHORT(target.address, values, count);
    } else {
        WRITE_PORT_BUFFER_ULONG(target.address, values, count);
    }
    close_target(&target);
    return STATUS_SUCCESS;
}

static NTSTATUS access_memory(struct request *request, BOOLEAN is_write)
{
    if (request->input_bytes < sizeof(struct portio_memory)) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    struct portio_memory memory = *(struct portio_memory *)request->buffer;
    if (!is_memory_request(&memory)) {
        return STATUS_INVALID_PARAMETER;
    }
    ULONG room = is_write ? request->input_bytes - sizeof(memory) : request->output_bytes;
    if (room < memory.length) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    PHYSICAL_ADDRESS physical;
    physical.QuadPart = (LONGLONG)memory.address;
    PUCHAR mapped = MmMapIoSpace(physical, memory.length, MmNonCached);
    if (mapped == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    if (is_write) {
        copy_to_registers(mapped, (PUCHAR)request->buffer + sizeof(memory), memory.length, memory.width);
    } else {
        copy_from_registers(request->buffer, mapped, memory.length, memory.width);
        request->information = memory.length;
    }
    MmUnmapIoSpace(mapped, memory.length);
    return STATUS_SUCCESS;
}

static NTSTATUS map(struct request *request)
{
    const struct portio_memory *memory = request->buffer;
    if (request->input_bytes < sizeof(*memory) || request->output_bytes < sizeof(rf_u32)) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    if (memory->length == 0) {
        return STATUS_INVALID_PARAMETER;
    }
    for (ULONG i = 0; i < MAPPINGS; i++) {
        if (mappings[i].address == NULL) {
            PHYSICAL_ADDRESS physical;
            physical.QuadPart = (LONGLONG)memory->address;
            mappings[i].length = memory->length;
            mappings[i].address = MmMapIoSpace(physical, memory->length, MmNonCached);
            return mappings[i].address != NULL ? answer_ulong(request, i) : STATUS_INSUFFICIENT_RESOURCES;
        }
    }
    return STATUS_INSUFFICIENT_RESOURCES;
}

static BOOLEAN is_mapping(ULONG number)
{
    return number < MAPPINGS && mappings[number].address != NULL;
}

static VOID unmap_number(ULONG number)
{
    MmUnmapIoSpace(mappings[number].address, mappings[number].length);
    mappings[number].address = NULL;
}

static NTSTATUS unmap(const struct request *request)
{
    if (request->input_bytes < sizeof(rf_u32)) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    ULONG number = *(rf_u32 *)request->buffer;
    if (!is_mapping(number)) {
        return STATUS_INVALID_PARAMETER;
    }
    unmap_number(number);
    return STATUS_SUCCESS;
}

static NTSTATUS access_mapped(struct request *request, BOOLEAN is_write)
{
    const struct portio_mapped *access = request->buffer;
    if (request->input_bytes < (is_write ? sizeof(*access) : FIELD_OFFSET(struct portio_mapped, value))) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    if (!is_mapping(access->mapping) || !is_width(access->width) || (access->offset & (access->width - 1)) != 0) {
        return STATUS_INVALID_PARAMETER;
    }
    const struct mapping *mapping = &mappings[access->mapping];
    if (mapping->length < access->width || access->offset > mapping->length - access->width) {
        return STATUS_INVALID_PARAMETER;
    }
    if (is_write) {
        write_register(mapping->address + access->offset, access->width, access->value);
        return STATUS_SUCCESS;
    }
    return answer_ulong(request, read_register(mapping->address + access->offset, access->width));
}

static NTSTATUS translate(struct request *request)
{
    if (request->input_bytes < sizeof(struct portio_translate) ||
        request->output_bytes < sizeof(struct portio_translated)) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    struct portio_translate in = *(struct portio_translate *)request->buffer;
    struct portio_translated *out = request->buffer;
    PHYSICAL_ADDRESS bus_address;
    PHYSICAL_ADDRESS translated;
    ULONG space = in.space;
    bus_address.QuadPart = (LONGLONG)in.address;
    translated.QuadPart = 0;
    out->result = HalTranslateBusAddress((INTERFACE_TYPE)in.interface_type, in.bus, bus_address, &space, &translated);
    out->address = (rf_u64)translated.QuadPart;
    out->space = space;
    request->information = sizeof(*out);
    return STATUS_SUCCESS;
}

static NTSTATUS control(ULONG code, struct request *request)
{
    switch (code) {
    case PORTIO_READ_PORT:
        return access_port(request, FALSE);
    case PORTIO_WRITE_PORT:
        return access_port(request, TRUE);
    case PORTIO_READ_PORT_BUFFER:
        return read_port_buffer(request);
    case PORTIO_WRITE_PORT_BUFFER:
        return write_port_buffer(request);
    case PORTIO_READ_MEMORY:
        return access_memory(request, FALSE);
    case PORTIO_WRITE_MEMORY:
        return access_memory(request, TRUE);
    case PORTIO_MAP:
        return map(request);
    case PORTIO_UNMAP:
        return unmap(request);
    case PORTIO_READ_MAPPED:
        return access_mapped(request, FALSE);
    case PORTIO_WRITE_MAPPED:
        return access_mapped(request, TRUE);
    case PORTIO_TRANSLATE:
        return translate(request);
    case PORTIO_READ_INLINE:
        return access_inline(request, FALSE);
    case PORTIO_WRITE_INLINE:
        return access_inline(request, TRUE);
    default:
        return STATUS_INVALID_DEVICE_REQUEST;
    }
}

static NTSTATUS NTAPI dispatch_control(PDEVICE_OBJECT device, PIRP irp)
{
    UNREFERENCED_PARAMETER(device);
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    struct request request = {
        .buffer = irp->AssociatedIrp.SystemBuffer,
        .input_bytes = stack->Parameters.DeviceIoControl.InputBufferLength,
        .output_bytes = stack->Parameters.DeviceIoControl.OutputBufferLength,
    };
    NTSTATUS status = control(stack->Parameters.DeviceIoControl.IoControlCode, &request);
    return complete(irp, status, request.information);
}

static NTSTATUS NTAPI dispatch_nothing(PDEVICE_OBJECT device, PIRP irp)
{
    UNREFERENCED_PARAMETER(device);
    return complete(irp, STATUS_SUCCESS, 0);
}

static VOID NTAPI unload(PDRIVER_OBJECT driver)
{
    for (ULONG i = 0; i < MAPPINGS; i++) {
        if (is_mapping(i)) {
            unmap_number(i);
        }
    }
    delete_device(driver->DeviceObject, LINK_PATH);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING registry_path)
{
    UNREFERENCED_PARAMETER(registry_path);
    PDEVICE_OBJECT device;
    NTSTATUS status = create_device(driver, 0, DEVICE_PATH, LINK_PATH, &device);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    driver->MajorFunction[IRP_MJ_CREATE] = dispatch_nothing;
    driver->MajorFunction[IRP_MJ_CLOSE] = dispatch_nothing;
    driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = dispatch_control;
    driver->DriverUnload = unload;
    DbgPrint("portio: loaded\n");
    return STATUS_SUCCESS;
}
