/* inpout32.dll/inpoutx64.dll as any program uses it: the DLL takes its driver out of itself, installs and starts it. Sends a
 * text to the parallel port: inpout.exe DLL TEXT. */
#include "common.h"

int main(int count, char **arguments)
{
    CHECK(count == 3);
    HMODULE library = LoadLibraryA(arguments[1]);
    CHECK(library != NULL);
    /* As its own header declares them. */
    BOOL(WINAPI * is_open)(void) = (BOOL(WINAPI *)(void))(ULONG_PTR)GetProcAddress(library, "IsInpOutDriverOpen");
    short(WINAPI * in)(short) = (short(WINAPI *)(short))(ULONG_PTR)GetProcAddress(library, "Inp32");
    void(WINAPI * out)(short, short) = (void(WINAPI *)(short, short))(ULONG_PTR)GetProcAddress(library, "Out32");
    CHECK(is_open != NULL && in != NULL && out != NULL);
    CHECK(is_open());
    for (const char *at = arguments[2]; *at != 0; at++) {
        out(0x378, (unsigned char)*at);
        out(0x37A, 0x0D);
        out(0x37A, 0x0C);
    }
    printf("status register %02x, data register %02x\n", in(0x379) & 0xFF, in(0x378) & 0xFF);
    /* The policy says nothing of this one: what is denied reads as all ones. */
    out(0x61, 3);
    printf("denied port %02x\n", in(0x61) & 0xFF);
    return 0;
}
