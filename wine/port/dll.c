#include "direct.h"
#include "port.h"

BOOL WINAPI DllMain(HINSTANCE self, DWORD reason, void *reserved)
{
    (void)reserved;
    if (reason == DLL_PROCESS_ATTACH) {
        WCHAR name[32];
        HANDLE event;
        DisableThreadLibraryCalls(self);
        port_start_exceptions();
        port_start_patches();
        port_start_children(self);
        port_start_requests(self);
        /* For the launcher, if it is one that waits. */
        port_event_name(GetCurrentProcessId(), name);
        event = OpenEventW(EVENT_MODIFY_STATE, FALSE, name);
        if (event != NULL) {
            SetEvent(event);
            CloseHandle(event);
        }
    }
    return TRUE;
}
