/* WinIo32.dll/WinIo64.dll as any program uses it: winio.exe DLL TEXT. The DLL installs WinIo32.sys or WinIo64.sys, which it
 * expects beside the program. */
#include <stdbool.h>

#include "common.h"

int main(int count, char **arguments)
{
    CHECK(count == 3);
    HMODULE library = LoadLibraryA(arguments[1]);
    CHECK(library != NULL);
    /* As its own header declares them. */
    bool(_stdcall * initialize)(void) = (bool(_stdcall *)(void))(ULONG_PTR)GetProcAddress(library, "InitializeWinIo");
    void(_stdcall * shut_down)(void) = (void(_stdcall *)(void))(ULONG_PTR)GetProcAddress(library, "ShutdownWinIo");
    bool(_stdcall * get)(WORD, DWORD *, BYTE) = (bool(_stdcall *)(WORD, DWORD *, BYTE))(ULONG_PTR)GetProcAddress(library, "GetPortVal");
    bool(_stdcall * set)(WORD, DWORD, BYTE) = (bool(_stdcall *)(WORD, DWORD, BYTE))(ULONG_PTR)GetProcAddress(library, "SetPortVal");
    CHECK(initialize != NULL && shut_down != NULL && get != NULL && set != NULL);
    CHECK(initialize());
    for (const char *at = arguments[2]; *at != 0; at++) {
        CHECK(set(0x378, (unsigned char)*at, 1) && set(0x37A, 0x0D, 1) && set(0x37A, 0x0C, 1));
    }
    DWORD status = 0;
    DWORD data = 0;
    CHECK(get(0x379, &status, 1) && get(0x378, &data, 1));
    printf("status register %02lx, data register %02lx\n", status & 0xFF, data & 0xFF);
    shut_down();
    return 0;
}
