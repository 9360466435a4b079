/* What drivers find that were installed with options: options.exe registry | port BYTES | hang. */
#include "common.h"

#include "../../tests/drivers/include/faulty.h"
#include "../../tests/drivers/include/kmdf.h"
#include "../../tests/drivers/include/portio.h"

/* What kmdf.sys has read from its registry key. */
static void registry(void)
{
    struct kmdf_state state;
    DWORD written = 0;
    HANDLE device = open_device("\\\\.\\kmdf");
    CHECK(DeviceIoControl(device, KMDF_QUERY, NULL, 0, &state, sizeof state, &written, NULL));
    CHECK(written == sizeof state);
    printf("parameter %x\n", (unsigned)state.parameter);
}

/* Sends bytes to the parallel port by portio.sys. */
static void port(const char *bytes)
{
    HANDLE device = open_device("\\\\.\\portio");
    for (; *bytes != 0; bytes++) {
        struct portio_access accesses[] = {{0x378, 1, (unsigned char)*bytes}, {0x37A, 1, 0x0D}, {0x37A, 1, 0x0C}};
        for (size_t i = 0; i < sizeof accesses / sizeof *accesses; i++) {
            DWORD written = 0;
            CHECK(DeviceIoControl(device, PORTIO_WRITE_PORT, &accesses[i], sizeof *accesses, NULL, 0, &written, NULL));
        }
    }
    printf("sent\n");
}

/* faulty.sys loops until it is found out. */
static void hang(void)
{
    DWORD written = 0;
    HANDLE device = open_device("\\\\.\\faulty");
    BOOL is_ok = DeviceIoControl(device, FAULTY_INFINITE_LOOP, NULL, 0, NULL, 0, &written, NULL);
    printf("hanging request: error %lu\n", is_ok ? 0 : GetLastError());
}

int main(int count, char **arguments)
{
    CHECK(count >= 2);
    if (strcmp(arguments[1], "registry") == 0) {
        registry();
    } else if (strcmp(arguments[1], "hang") == 0) {
        hang();
    } else {
        CHECK(count == 3);
        port(arguments[2]);
    }
    return 0;
}
