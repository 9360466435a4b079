/* Processes that this one starts get the DLL too.
 *
 * All ways to start one lead through kernelbase's CreateProcessInternalW. Wine builds it "hotpatchable": on amd64 it begins
 * with an instruction of eight bytes that does nothing, on i386 with the five of Windows XP SP2; behind both stands room for
 * a jump. Where that is not what is found, nothing is changed, and children have no ports.
 */
#include "port.h"

static create_process original;
static WCHAR own_path[MAX_PATH];

static BOOL WINAPI on_create(HANDLE token, const WCHAR *application, WCHAR *command_line,
                             SECURITY_ATTRIBUTES *process_attributes, SECURITY_ATTRIBUTES *thread_attributes,
                             BOOL inherits, DWORD flags, void *environment, const WCHAR *folder, STARTUPINFOW *startup,
                             PROCESS_INFORMATION *information, HANDLE *new_token)
{
    PROCESS_INFORMATION child;
    if (!original(token, application, command_line, process_attributes, thread_attributes, inherits,
                  flags | CREATE_SUSPENDED, environment, folder, startup, &child, new_token)) {
        return FALSE;
    }
    /* Whatever comes of it, the program gets its process. */
    port_inject(&child, own_path, original);
    if ((flags & CREATE_SUSPENDED) == 0) {
        ResumeThread(child.hThread);
    }
    *information = child;
    return TRUE;
}

#ifdef _WIN64
/* lea 0(%rsp), %rsp */
static const uint8_t hotpatch[] = {0x48, 0x8D, 0xA4, 0x24, 0, 0, 0, 0};
/* jmp *0(%rip), and the address: in the room before. */
enum { ROOM = 14 };
#else
/* mov %edi, %edi; push %ebp; mov %esp, %ebp */
static const uint8_t hotpatch[] = {0x8B, 0xFF, 0x55, 0x8B, 0xEC};
enum { ROOM = 5 };
#endif

static int is_filler(uint8_t byte)
{
    return byte == 0xCC || byte == 0x90 || byte == 0;
}

void port_start_children(HMODULE self)
{
    uint8_t *at = (uint8_t *)GetProcAddress(GetModuleHandleW(L"kernelbase.dll"), "CreateProcessInternalW");
    DWORD length = GetModuleFileNameW(self, own_path, MAX_PATH);
    DWORD before, ignored;

    if (at == NULL || length == 0 || length >= MAX_PATH) {
        return;
    }
    for (unsigned i = 0; i < sizeof hotpatch; i++) {
        if (at[i] != hotpatch[i]) {
            return;
        }
    }
    for (unsigned i = 1; i <= ROOM; i++) {
        if (!is_filler(at[-(int)i])) {
            return;
        }
    }
    if (!VirtualProtect(at - ROOM, ROOM + sizeof hotpatch, PAGE_EXECUTE_READWRITE, &before)) {
        return;
    }
#ifdef _WIN64
    /* The original goes on behind the instruction that does nothing. */
    original = (create_process)(void *)(at + sizeof hotpatch);
    at[-14] = 0xFF;
    at[-13] = 0x25;
    *(uint32_t *)(at - 12) = 0;
    *(uint64_t *)(at - 8) = (uint64_t)on_create;
    /* jmp to the room: one store, so that no thread sees half of it. */
    __atomic_store_n((uint16_t *)at, 0xF0EB, __ATOMIC_SEQ_CST);
#else
    /* mov %edi, %edi is two bytes, so push and mov stay. */
    original = (create_process)(void *)(at + 2);
    at[-5] = 0xE9;
    *(uint32_t *)(at - 4) = (uint32_t)on_create - (uint32_t)at;
    __atomic_store_n((uint16_t *)at, 0xF9EB, __ATOMIC_SEQ_CST);
#endif
    VirtualProtect(at - ROOM, ROOM + sizeof hotpatch, before, &ignored);
    FlushInstructionCache(GetCurrentProcess(), at - ROOM, ROOM + sizeof hotpatch);
}
