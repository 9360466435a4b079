/* What drivers and ports cost a Windows program; tests/benches/wine.rs starts it and reads what it prints, one number a line,
 * in nanoseconds.
 *   bench.exe ioctl COUNT      DeviceIoControl of 64 bytes with echo.sys: median and 99th percentile
 *   bench.exe ports COUNT      out and in of port 0x300, ten at a time: the fastest, the median and the 99th percentile of one
 *   bench.exe start NAME COUNT StartService of a driver that is stopped: median
 *   bench.exe between BEGIN END as many DeviceIoControl as it can between two moments, in milliseconds since 1970: how many
 */
#include <windows.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ECHO_BUFFERED 0x00222000

static uint64_t now(void)
{
    LARGE_INTEGER counter, frequency;
    QueryPerformanceCounter(&counter);
    QueryPerformanceFrequency(&frequency);
    return (uint64_t)((double)counter.QuadPart * 1e9 / (double)frequency.QuadPart);
}

static int compare(const void *one, const void *other)
{
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return a < b ? -1 : a > b;
}

static void print(uint64_t *times, unsigned count, int with_first)
{
    qsort(times, count, sizeof *times, compare);
    if (with_first) {
        printf("%llu\n", (unsigned long long)times[0]);
    }
    printf("%llu\n%llu\n", (unsigned long long)times[count / 2], (unsigned long long)times[count * 99 / 100]);
}

static HANDLE open_echo(void)
{
    HANDLE device = CreateFileA("\\\\.\\echo", GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING, 0, NULL);
    if (device == INVALID_HANDLE_VALUE) {
        printf("no device: error %lu\n", GetLastError());
        exit(2);
    }
    return device;
}

static void request(HANDLE device, unsigned i)
{
    uint8_t input[64], output[64];
    DWORD bytes = 0;
    memset(input, (int)i, sizeof input);
    BOOL is_done = DeviceIoControl(device, ECHO_BUFFERED, input, 64, output, 64, &bytes, NULL);
    /* echo.h: each byte coded with 0xA5 and its place. */
    if (!is_done || bytes != 64 || output[1] != (uint8_t)((input[1] ^ 0xA5) + 1)) {
        printf("a wrong answer: error %lu\n", GetLastError());
        exit(2);
    }
}

static int ioctls(uint64_t *times, unsigned count)
{
    HANDLE device = open_echo();
    for (unsigned i = 0; i < count + count / 10; i++) {
        uint64_t began = now();
        request(device, i);
        uint64_t took = now() - began;
        if (i >= count / 10) {
            times[i - count / 10] = took;
        }
    }
    print(times, count, 0);
    return 0;
}

static int64_t milliseconds(void)
{
    FILETIME time;
    GetSystemTimeAsFileTime(&time);
    return (int64_t)(((uint64_t)time.dwHighDateTime << 32 | time.dwLowDateTime) / 10000 - 11644473600000);
}

static int between(int64_t begin, int64_t end)
{
    unsigned count = 0;
    HANDLE device = open_echo();
    for (unsigned i = 0; i < 100; i++) {
        request(device, i);
    }
    if (milliseconds() >= begin) {
        printf("too late\n");
        return 2;
    }
    Sleep((DWORD)(begin - milliseconds()));
    while (milliseconds() < end) {
        for (unsigned i = 0; i < 10; i++) {
            request(device, count++);
        }
    }
    printf("%u\n", count);
    return 0;
}

__attribute__((noinline)) static void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "d"(port));
}

__attribute__((noinline)) static uint8_t inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "d"(port));
    return value;
}

static int ports(uint64_t *times, unsigned count)
{
    for (unsigned i = 0; i < count + count / 10; i++) {
        uint64_t began = now();
        for (unsigned turn = 0; turn < 5; turn++) {
            outb(0x300, (uint8_t)(i + turn));
            if (inb(0x300) != (uint8_t)(i + turn)) {
                printf("a wrong value\n");
                return 2;
            }
        }
        if (i >= count / 10) {
            times[i - count / 10] = (now() - began) / 10;
        }
    }
    print(times, count, 1);
    return 0;
}

static int starts(const char *name, uint64_t *times, unsigned count)
{
    SC_HANDLE manager = OpenSCManagerA(NULL, NULL, SC_MANAGER_CONNECT);
    SC_HANDLE service = OpenServiceA(manager, name, SERVICE_START | SERVICE_STOP | SERVICE_QUERY_STATUS);
    SERVICE_STATUS status;
    if (service == NULL) {
        printf("no service: error %lu\n", GetLastError());
        return 2;
    }
    ControlService(service, SERVICE_CONTROL_STOP, &status);
    for (unsigned i = 0; i < count; i++) {
        uint64_t began = now();
        if (!StartServiceA(service, 0, NULL)) {
            printf("it does not start: error %lu\n", GetLastError());
            return 2;
        }
        times[i] = now() - began;
        ControlService(service, SERVICE_CONTROL_STOP, &status);
        for (int tries = 0; tries < 1000; tries++) {
            if (QueryServiceStatus(service, &status) && status.dwCurrentState == SERVICE_STOPPED) {
                break;
            }
            Sleep(5);
        }
    }
    print(times, count, 0);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "between") == 0) {
        return between(atoll(argv[2]), atoll(argv[3]));
    }
    unsigned count = argc > 2 ? (unsigned)atoi(argv[argc - 1]) : 0;
    uint64_t *times = calloc(count + 1, sizeof *times);
    if (times == NULL || count == 0) {
        return 2;
    }
    if (strcmp(argv[1], "ioctl") == 0) {
        return ioctls(times, count);
    }
    if (strcmp(argv[1], "ports") == 0) {
        return ports(times, count);
    }
    return argc == 4 ? starts(argv[2], times, count) : 2;
}
