/* Strings of the run-time library: UNICODE_STRING, ANSI and OEM strings, numbers, hashes, GUIDs, UTF-8, times, checksums,
 * compression. */
#include "ktest.h"

#ifndef STATUS_SOME_NOT_MAPPED
#define STATUS_SOME_NOT_MAPPED 0x00000107
#endif

NTSTATUS NTAPI RtlInitUnicodeStringEx(PUNICODE_STRING, PCWSTR);
BOOLEAN NTAPI RtlPrefixString(const STRING *, const STRING *, BOOLEAN);
NTSTATUS NTAPI RtlDowncaseUnicodeString(PUNICODE_STRING, PCUNICODE_STRING, BOOLEAN);
NTSTATUS NTAPI RtlOemStringToUnicodeString(PUNICODE_STRING, const STRING *, BOOLEAN);
NTSTATUS NTAPI RtlUpcaseUnicodeStringToOemString(PSTRING, PCUNICODE_STRING, BOOLEAN);
NTSTATUS NTAPI RtlUnicodeStringToCountedOemString(PSTRING, PCUNICODE_STRING, BOOLEAN);
NTSTATUS NTAPI RtlUpcaseUnicodeStringToCountedOemString(PSTRING, PCUNICODE_STRING, BOOLEAN);
VOID NTAPI RtlFreeOemString(PSTRING);
ULONG NTAPI RtlxUnicodeStringToOemSize(PCUNICODE_STRING);
ULONG NTAPI RtlxOemStringToUnicodeSize(const STRING *);
NTSTATUS NTAPI RtlMultiByteToUnicodeN(PWSTR, ULONG, PULONG, const CHAR *, ULONG);
NTSTATUS NTAPI RtlOemToUnicodeN(PWSTR, ULONG, PULONG, const CHAR *, ULONG);
NTSTATUS NTAPI RtlUnicodeToMultiByteN(PCHAR, ULONG, PULONG, PCWSTR, ULONG);
NTSTATUS NTAPI RtlUpcaseUnicodeToMultiByteN(PCHAR, ULONG, PULONG, PCWSTR, ULONG);
NTSTATUS NTAPI RtlUnicodeToOemN(PCHAR, ULONG, PULONG, PCWSTR, ULONG);
NTSTATUS NTAPI RtlUpcaseUnicodeToOemN(PCHAR, ULONG, PULONG, PCWSTR, ULONG);
NTSTATUS NTAPI RtlMultiByteToUnicodeSize(PULONG, const CHAR *, ULONG);
NTSTATUS NTAPI RtlUnicodeToMultiByteSize(PULONG, PCWSTR, ULONG);
VOID NTAPI RtlSecondsSince1970ToTime(ULONG, PLARGE_INTEGER);
BOOLEAN NTAPI RtlTimeToSecondsSince1970(PLARGE_INTEGER, PULONG);
BOOLEAN NTAPI RtlTimeToSecondsSince1980(PLARGE_INTEGER, PULONG);
VOID NTAPI RtlSecondsSince1980ToTime(ULONG, PLARGE_INTEGER);
SIZE_T NTAPI RtlCompareMemoryUlong(PVOID, SIZE_T, ULONG);
VOID NTAPI RtlFillMemoryUlong(PVOID, SIZE_T, ULONG);
BOOLEAN NTAPI RtlCreateUnicodeString(PUNICODE_STRING, PCWSTR);

static WCHAR units[64];
static CHAR bytes[64];

static UNICODE_STRING room(USHORT count)
{
    UNICODE_STRING string = {0, (USHORT)(2 * count), units};
    for (ULONG i = 0; i < RTL_NUMBER_OF(units); i++) {
        units[i] = 0xCCCC;
    }
    return string;
}

static ANSI_STRING byte_room(USHORT count)
{
    ANSI_STRING string = {0, count, bytes};
    for (ULONG i = 0; i < RTL_NUMBER_OF(bytes); i++) {
        bytes[i] = (CHAR)0xCC;
    }
    return string;
}

#define W(text) {sizeof(text) - 2, sizeof(text), (PWSTR)(text)}
#define A(text) {sizeof(text) - 1, sizeof(text), (PCHAR)(text)}
#define CHECK_TEXT(string, want) \
    do { \
        CHECK_EQ((string).Length, sizeof(want) - sizeof(*(want))); \
        CHECK_MEM((string).Buffer, want, sizeof(want) - sizeof(*(want))); \
    } while (0)

KTEST(initialize)
{
    UNICODE_STRING unicode;
    ANSI_STRING ansi;
    RtlInitUnicodeString(&unicode, L"abc");
    CHECK_EQ(unicode.Length, 6);
    CHECK_EQ(unicode.MaximumLength, 8);
    RtlInitUnicodeString(&unicode, L"");
    CHECK_EQ(unicode.Length, 0);
    CHECK_EQ(unicode.MaximumLength, 2);
    RtlInitUnicodeString(&unicode, NULL);
    CHECK_EQ(unicode.Length, 0);
    CHECK_EQ(unicode.MaximumLength, 0);
    CHECK_PTR(unicode.Buffer, NULL);
    RtlInitAnsiString(&ansi, "ab");
    CHECK_EQ(ansi.Length, 2);
    CHECK_EQ(ansi.MaximumLength, 3);
    RtlInitString(&ansi, NULL);
    CHECK_EQ(ansi.MaximumLength, 0);
    CHECK_STATUS(RtlInitUnicodeStringEx(&unicode, L"xy"), STATUS_SUCCESS);
    CHECK_EQ(unicode.Length, 4);
}

KTEST(copy_and_append)
{
    UNICODE_STRING to = room(5), abcd = W(L"abcd"), ab = W(L"ab");
    RtlCopyUnicodeString(&to, &abcd);
    CHECK_TEXT(to, L"abcd");
    CHECK_EQ(units[4], 0);
    to = room(2);
    RtlCopyUnicodeString(&to, &abcd);
    CHECK_TEXT(to, L"ab");
    CHECK_EQ(units[2], 0xCCCC);
    RtlCopyUnicodeString(&to, NULL);
    CHECK_EQ(to.Length, 0);
    to = room(5);
    CHECK_STATUS(RtlAppendUnicodeToString(&to, L"abc"), STATUS_SUCCESS);
    CHECK_STATUS(RtlAppendUnicodeStringToString(&to, &ab), STATUS_SUCCESS);
    CHECK_TEXT(to, L"abcab");
    CHECK_EQ(units[5], 0xCCCC);
    CHECK_STATUS(RtlAppendUnicodeToString(&to, L"x"), STATUS_BUFFER_TOO_SMALL);
    CHECK_TEXT(to, L"abcab");
    CHECK_STATUS(RtlAppendUnicodeToString(&to, NULL), STATUS_SUCCESS);
    ANSI_STRING narrow = byte_room(3), source = A("lpt1");
    RtlCopyString(&narrow, &source);
    CHECK_TEXT(narrow, "lpt");
    narrow.Length = 0;
    RtlUpperString(&narrow, &source);
    CHECK_TEXT(narrow, "LPT");
}

KTEST(compare)
{
    UNICODE_STRING a = W(L"Port"), b = W(L"pORT"), longer = W(L"port1"), empty = W(L"");
    CHECK(RtlCompareUnicodeString(&a, &b, FALSE) < 0);
    CHECK_EQ(RtlCompareUnicodeString(&a, &b, TRUE), 0);
    CHECK(RtlCompareUnicodeString(&longer, &a, TRUE) > 0);
    CHECK(RtlCompareUnicodeString(&empty, &a, TRUE) < 0);
    CHECK(RtlEqualUnicodeString(&a, &b, TRUE));
    CHECK(!RtlEqualUnicodeString(&a, &b, FALSE));
    CHECK(!RtlEqualUnicodeString(&a, &longer, TRUE));
    CHECK(RtlPrefixUnicodeString(&a, &longer, TRUE));
    CHECK(!RtlPrefixUnicodeString(&a, &longer, FALSE));
    CHECK(RtlPrefixUnicodeString(&empty, &a, FALSE));
    CHECK(!RtlPrefixUnicodeString(&longer, &a, TRUE));
    ANSI_STRING x = A("Com"), y = A("cOM"), xy = A("com9");
    CHECK(RtlEqualString(&x, &y, TRUE));
    CHECK(!RtlEqualString(&x, &y, FALSE));
    CHECK(RtlCompareString(&x, &y, FALSE) < 0);
    CHECK(RtlPrefixString(&x, &xy, TRUE));
    CHECK(!RtlPrefixString(&xy, &x, TRUE));
    CHECK_EQ(RtlCompareUnicodeStrings(L"abc", 2, L"abd", 2, FALSE), 0);
    CHECK(RtlCompareUnicodeStrings(L"abc", 3, L"abd", 3, FALSE) < 0);
    CHECK_EQ(RtlCompareUnicodeStrings(L"ABC", 3, L"abc", 3, TRUE), 0);
}

KTEST(case_mapping)
{
    UNICODE_STRING to = room(4), from = W(L"a\x00E4\x00DF\x00FF"), small;
    CHECK_STATUS(RtlUpcaseUnicodeString(&to, &from, FALSE), STATUS_SUCCESS);
    CHECK_TEXT(to, L"A\x00C4\x00DF\x0178");
    CHECK_STATUS(RtlDowncaseUnicodeString(&small, &to, TRUE), STATUS_SUCCESS);
    CHECK_TEXT(small, L"a\x00E4\x00DF\x00FF");
    RtlFreeUnicodeString(&small);
    CHECK_PTR(small.Buffer, NULL);
    to = room(3);
    CHECK_STATUS(RtlUpcaseUnicodeString(&to, &from, FALSE), STATUS_BUFFER_OVERFLOW);
    CHECK_EQ(RtlUpcaseUnicodeChar(L'z'), L'Z');
    CHECK_EQ(RtlDowncaseUnicodeChar(0x0416), 0x0436);
    CHECK_EQ(RtlUpperChar('q'), 'Q');
    CHECK_EQ((UCHAR)RtlUpperChar((CHAR)0xE4), 0xC4);
}

KTEST(ansi)
{
    UNICODE_STRING unicode = room(5);
    ANSI_STRING ansi = A("\x80uro"), to;
    CHECK_EQ(RtlxAnsiStringToUnicodeSize(&ansi), 10);
    CHECK_STATUS(RtlAnsiStringToUnicodeString(&unicode, &ansi, FALSE), STATUS_SUCCESS);
    CHECK_TEXT(unicode, L"\x20ACuro");
    CHECK_EQ(units[4], 0);
    CHECK_EQ(RtlxUnicodeStringToAnsiSize(&unicode), 5);
    CHECK_STATUS(RtlUnicodeStringToAnsiString(&to, &unicode, TRUE), STATUS_SUCCESS);
    CHECK_TEXT(to, "\x80uro");
    CHECK_EQ(to.MaximumLength, 5);
    RtlFreeAnsiString(&to);
    CHECK_EQ(to.Length, 0);
    to = byte_room(3);
    CHECK_STATUS(RtlUnicodeStringToAnsiString(&to, &unicode, FALSE), STATUS_BUFFER_OVERFLOW);
    CHECK_MEM(bytes, "\x80u\0\xCC", 4);
    UNICODE_STRING small = room(4);
    CHECK_STATUS(RtlAnsiStringToUnicodeString(&small, &ansi, FALSE), STATUS_BUFFER_OVERFLOW);
    UNICODE_STRING cyrillic = W(L"\x0416y");
    to = byte_room(9);
    CHECK_STATUS(RtlUnicodeStringToAnsiString(&to, &cyrillic, FALSE), STATUS_SUCCESS);
    CHECK_TEXT(to, "?y");
}

KTEST(oem)
{
    UNICODE_STRING unicode = room(4), cyrillic = W(L"\x0416");
    OEM_STRING oem = A("\x84z"), to;
    CHECK_STATUS(RtlOemStringToUnicodeString(&unicode, &oem, FALSE), STATUS_SUCCESS);
    CHECK_TEXT(unicode, L"\x00E4z");
    CHECK_STATUS(RtlUpcaseUnicodeStringToOemString(&to, &unicode, TRUE), STATUS_SUCCESS);
    CHECK_TEXT(to, "\x8EZ");
    RtlFreeOemString(&to);
    CHECK_PTR(to.Buffer, NULL);
    to = byte_room(2);
    CHECK_STATUS(RtlUnicodeStringToCountedOemString(&to, &unicode, FALSE), STATUS_SUCCESS);
    CHECK_TEXT(to, "\x84z");
    CHECK_STATUS(RtlUnicodeStringToCountedOemString(&to, &cyrillic, FALSE), STATUS_UNMAPPABLE_CHARACTER);
    to = byte_room(1);
    CHECK_STATUS(RtlUpcaseUnicodeStringToCountedOemString(&to, &unicode, FALSE), STATUS_BUFFER_OVERFLOW);
    CHECK_EQ(RtlxUnicodeStringToOemSize(&unicode), 3);
    CHECK_EQ(RtlxOemStringToUnicodeSize(&oem), 6);
}

KTEST(buffers)
{
    ULONG size = 99;
    room(8);
    CHECK_STATUS(RtlMultiByteToUnicodeN(units, 5, &size, "\x80zz", 3), STATUS_SUCCESS);
    CHECK_EQ(size, 4);
    CHECK_MEM(units, L"\x20ACz\xCCCC", 6);
    CHECK_STATUS(RtlOemToUnicodeN(units, 4, &size, "\x80zz", 3), STATUS_BUFFER_OVERFLOW);
    CHECK_MEM(units, L"\x00C7z", 4);
    byte_room(8);
    CHECK_STATUS(RtlUnicodeToMultiByteN(bytes, 1, &size, L"\x20ACz", 4), STATUS_SUCCESS);
    CHECK_EQ(size, 1);
    CHECK_MEM(bytes, "\x80\xCC", 2);
    CHECK_STATUS(RtlUpcaseUnicodeToMultiByteN(bytes, 8, NULL, L"a\x00E4", 4), STATUS_SUCCESS);
    CHECK_MEM(bytes, "A\xC4\xCC", 3);
    CHECK_STATUS(RtlUnicodeToOemN(bytes, 8, &size, L"\x00E4", 2), STATUS_SUCCESS);
    CHECK_EQ((UCHAR)bytes[0], 0x84);
    CHECK_STATUS(RtlUpcaseUnicodeToOemN(bytes, 1, &size, L"\x00E4z", 4), STATUS_BUFFER_OVERFLOW);
    CHECK_EQ((UCHAR)bytes[0], 0x8E);
    CHECK_STATUS(RtlMultiByteToUnicodeSize(&size, "abc", 3), STATUS_SUCCESS);
    CHECK_EQ(size, 6);
    CHECK_STATUS(RtlUnicodeToMultiByteSize(&size, L"abc", 6), STATUS_SUCCESS);
    CHECK_EQ(size, 3);
}


KTEST(utf8)
{
    ULONG size;
    byte_room(16);
    CHECK_STATUS(RtlUnicodeToUTF8N(bytes, 16, &size, L"a\x20AC\xD83D\xDE00", 8), STATUS_SUCCESS);
    CHECK_EQ(size, 8);
    CHECK_MEM(bytes, "a\xE2\x82\xAC\xF0\x9F\x98\x80\xCC", 9);
    CHECK_STATUS(RtlUnicodeToUTF8N(bytes, 7, &size, L"a\x20AC\xD83D\xDE00", 8), STATUS_BUFFER_TOO_SMALL);
    CHECK_EQ(size, 4);
    CHECK_STATUS(RtlUnicodeToUTF8N(NULL, 0, &size, L"\x20AC", 2), STATUS_SUCCESS);
    CHECK_EQ(size, 3);
    CHECK_STATUS(RtlUnicodeToUTF8N(bytes, 9, &size, L"\xD83D", 2), STATUS_SOME_NOT_MAPPED);
    CHECK_MEM(bytes, "\xEF\xBF\xBD", 3);
    CHECK_STATUS(RtlUnicodeToUTF8N(bytes, 9, &size, NULL, 2), STATUS_INVALID_PARAMETER_4);
    CHECK_STATUS(RtlUnicodeToUTF8N(bytes, 9, &size, L"x", 1), STATUS_INVALID_PARAMETER_5);
    CHECK_STATUS(RtlUnicodeToUTF8N(NULL, 0, NULL, L"x", 2), STATUS_INVALID_PARAMETER);
    room(16);
    CHECK_STATUS(RtlUTF8ToUnicodeN(units, 16, &size, "a\xE2\x82\xAC\xF0\x9F\x98\x80", 8), STATUS_SUCCESS);
    CHECK_EQ(size, 8);
    CHECK_MEM(units, L"a\x20AC\xD83D\xDE00\xCCCC", 10);
    CHECK_STATUS(RtlUTF8ToUnicodeN(units, 2, &size, "ab", 2), STATUS_BUFFER_TOO_SMALL);
    CHECK_EQ(size, 2);
    CHECK_STATUS(RtlUTF8ToUnicodeN(units, 16, &size, "a\xFF", 2), STATUS_SOME_NOT_MAPPED);
    CHECK_MEM(units, L"a\xFFFD", 4);
    CHECK_STATUS(RtlUTF8ToUnicodeN(NULL, 0, &size, "abc", 3), STATUS_SUCCESS);
    CHECK_EQ(size, 6);
}

NTSTATUS NTAPI RtlIntegerToChar(ULONG, ULONG, ULONG, PCHAR);

KTEST(numbers)
{
    UNICODE_STRING to = room(9), hex = W(L" 0xdeadBEEFg"), negative = W(L"-12"), octal = W(L"0o17"), binary = W(L"101");
    ULONG value = 7;
    CHECK_STATUS(RtlIntegerToUnicodeString(0xDEADBEEF, 16, &to), STATUS_SUCCESS);
    CHECK_TEXT(to, L"DEADBEEF");
    CHECK_STATUS(RtlIntegerToUnicodeString(0, 0, &to), STATUS_SUCCESS);
    CHECK_TEXT(to, L"0");
    CHECK_STATUS(RtlIntegerToUnicodeString(1, 3, &to), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlIntegerToUnicodeString(0xFFFFFFFF, 10, &to), STATUS_BUFFER_OVERFLOW);
    to = room(20);
    CHECK_STATUS(RtlInt64ToUnicodeString(0x123456789ABCDEFULL, 16, &to), STATUS_SUCCESS);
    CHECK_TEXT(to, L"123456789ABCDEF");
    CHECK_STATUS(RtlUnicodeStringToInteger(&hex, 0, &value), STATUS_SUCCESS);
    CHECK_EQ(value, 0xDEADBEEF);
    CHECK_STATUS(RtlUnicodeStringToInteger(&negative, 10, &value), STATUS_SUCCESS);
    CHECK_EQ(value, (ULONG)-12);
    CHECK_STATUS(RtlUnicodeStringToInteger(&octal, 0, &value), STATUS_SUCCESS);
    CHECK_EQ(value, 15);
    CHECK_STATUS(RtlUnicodeStringToInteger(&binary, 2, &value), STATUS_SUCCESS);
    CHECK_EQ(value, 5);
    CHECK_STATUS(RtlUnicodeStringToInteger(&binary, 7, &value), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlCharToInteger("0x1f", 0, &value), STATUS_SUCCESS);
    CHECK_EQ(value, 0x1F);
    CHECK_STATUS(RtlCharToInteger("12", 3, &value), STATUS_INVALID_PARAMETER);
    byte_room(8);
    CHECK_STATUS(RtlIntegerToChar(123, 10, 3, bytes), STATUS_SUCCESS);
    CHECK_MEM(bytes, "123\xCC", 4);
    CHECK_STATUS(RtlIntegerToChar(123, 10, 2, bytes), STATUS_BUFFER_OVERFLOW);
}

NTSTATUS NTAPI RtlDuplicateUnicodeString(ULONG, PCUNICODE_STRING, PUNICODE_STRING);
NTSTATUS NTAPI RtlValidateUnicodeString(ULONG, PCUNICODE_STRING);

KTEST(hash_and_duplicate)
{
    UNICODE_STRING name = W(L"Test"), upper = W(L"TEST"), copy, empty = W(L""), odd = {3, 4, units}, long_one = {6, 4, units};
    ULONG hash = 0, other = 1;
    CHECK_STATUS(RtlHashUnicodeString(&name, FALSE, 1, &hash), STATUS_SUCCESS);
    CHECK_EQ(hash, 0x766BB952); /* Python */
    CHECK_STATUS(RtlHashUnicodeString(&name, TRUE, 0, &hash), STATUS_SUCCESS);
    CHECK_STATUS(RtlHashUnicodeString(&upper, FALSE, 0, &other), STATUS_SUCCESS);
    CHECK_EQ(hash, other);
    CHECK_STATUS(RtlHashUnicodeString(&name, TRUE, 2, &hash), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlHashUnicodeString(NULL, TRUE, 0, &hash), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlDuplicateUnicodeString(1, &name, &copy), STATUS_SUCCESS);
    CHECK_TEXT(copy, L"Test");
    CHECK_EQ(copy.MaximumLength, 10);
    CHECK_EQ(copy.Buffer[4], 0);
    RtlFreeUnicodeString(&copy);
    CHECK_STATUS(RtlDuplicateUnicodeString(0, &name, &copy), STATUS_SUCCESS);
    CHECK_EQ(copy.MaximumLength, 8);
    RtlFreeUnicodeString(&copy);
    CHECK_STATUS(RtlDuplicateUnicodeString(1, &empty, &copy), STATUS_SUCCESS);
    CHECK_PTR(copy.Buffer, NULL);
    CHECK_STATUS(RtlDuplicateUnicodeString(3, &empty, &copy), STATUS_SUCCESS);
    CHECK_EQ(copy.MaximumLength, 2);
    RtlFreeUnicodeString(&copy);
    CHECK_STATUS(RtlDuplicateUnicodeString(2, &name, &copy), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlDuplicateUnicodeString(8, &name, &copy), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlValidateUnicodeString(0, &name), STATUS_SUCCESS);
    CHECK_STATUS(RtlValidateUnicodeString(0, &odd), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlValidateUnicodeString(0, &long_one), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlValidateUnicodeString(1, &name), STATUS_INVALID_PARAMETER);
    CHECK(RtlCreateUnicodeString(&copy, L"made"));
    CHECK_TEXT(copy, L"made");
    RtlFreeUnicodeString(&copy);
}

KTEST(guids)
{
    UNICODE_STRING text = W(L"{6b29FC40-CA47-1067-B31D-00DD010662DA}"), out, bad = W(L"6b29FC40-CA47-1067-B31D-00DD010662DA");
    GUID guid;
    CHECK_STATUS(RtlGUIDFromString(&text, &guid), STATUS_SUCCESS);
    CHECK_EQ(guid.Data1, 0x6B29FC40);
    CHECK_EQ(guid.Data2, 0xCA47);
    CHECK_EQ(guid.Data3, 0x1067);
    CHECK_MEM(guid.Data4, "\xB3\x1D\x00\xDD\x01\x06\x62\xDA", 8);
    CHECK_STATUS(RtlStringFromGUID(&guid, &out), STATUS_SUCCESS);
    CHECK_TEXT(out, L"{6B29FC40-CA47-1067-B31D-00DD010662DA}");
    CHECK_EQ(out.MaximumLength, 78);
    RtlFreeUnicodeString(&out);
    CHECK_STATUS(RtlGUIDFromString(&bad, &guid), STATUS_INVALID_PARAMETER);
}

KTEST(times)
{
    LARGE_INTEGER time, local;
    TIME_FIELDS fields;
    ULONG seconds;
    RtlSecondsSince1970ToTime(951782400, &time);
    CHECK_EQ(time.QuadPart, 125962560000000000ULL);
    RtlTimeToTimeFields(&time, &fields);
    CHECK_EQ(fields.Year, 2000);
    CHECK_EQ(fields.Month, 2);
    CHECK_EQ(fields.Day, 29);
    CHECK_EQ(fields.Weekday, 2);
    CHECK(RtlTimeFieldsToTime(&fields, &local));
    CHECK_EQ(local.QuadPart, time.QuadPart);
    fields.Day = 30;
    CHECK(!RtlTimeFieldsToTime(&fields, &local));
    CHECK(RtlTimeToSecondsSince1970(&time, &seconds));
    CHECK_EQ(seconds, 951782400);
    CHECK(RtlTimeToSecondsSince1980(&time, &seconds));
    CHECK_EQ(seconds, 951782400 - 315532800);
    RtlSecondsSince1980ToTime(0, &time);
    CHECK_EQ(time.QuadPart, 119600064000000000ULL);
    time.QuadPart = 0;
    CHECK(!RtlTimeToSecondsSince1970(&time, &seconds));
    CHECK(!RtlTimeToSecondsSince1980(&time, &seconds));
    time.QuadPart = 864000000000LL * 3 + 10000;
    ExSystemTimeToLocalTime(&time, &local);
    CHECK_EQ(local.QuadPart, time.QuadPart);
    ExLocalTimeToSystemTime(&local, &time);
    CHECK_EQ(time.QuadPart, local.QuadPart);
}

#undef RtlUshortByteSwap
#undef RtlUlongByteSwap
#undef RtlUlonglongByteSwap
ULONG NTAPI RtlComputeCrc32(ULONG, const VOID *, ULONG);

KTEST(memory)
{
    static UCHAR data[16];
    ULONG *words = (ULONG *)data;
    CHECK_EQ(RtlComputeCrc32(0, "123456789", 9), 0xCBF43926);
    CHECK_EQ(RtlComputeCrc32(RtlComputeCrc32(0, "1234", 4), "56789", 5), 0xCBF43926);
    RtlFillMemoryUlong(data, 12, 0x01020304);
    CHECK_EQ(words[2], 0x01020304);
    CHECK_EQ(words[3], 0);
    CHECK_EQ(RtlCompareMemoryUlong(data, 16, 0x01020304), 12);
    CHECK_EQ(RtlCompareMemoryUlong(data, 7, 0x01020304), 4);
    CHECK_EQ(RtlCompareMemory(data, data + 4, 8), 8);
    CHECK_EQ(RtlCompareMemory("abcd", "abXd", 4), 2);
    CHECK_EQ(RtlUshortByteSwap(0x1234), 0x3412);
    CHECK_EQ(RtlUlongByteSwap(0x12345678), 0x78563412);
    CHECK_EQ(RtlUlonglongByteSwap(0x0102030405060708ULL), 0x0807060504030201ULL);
}

NTSTATUS NTAPI RtlCompressBuffer(USHORT, PUCHAR, ULONG, PUCHAR, ULONG, ULONG, PULONG, PVOID);
NTSTATUS NTAPI RtlDecompressBuffer(USHORT, PUCHAR, ULONG, PUCHAR, ULONG, PULONG);
NTSTATUS NTAPI RtlDecompressFragment(USHORT, PUCHAR, ULONG, PUCHAR, ULONG, ULONG, PULONG, PVOID);
NTSTATUS NTAPI RtlGetCompressionWorkSpaceSize(USHORT, PULONG, PULONG);

KTEST(compression)
{
    static UCHAR plain[9000], packed[9100], back[9000], work[0x2000];
    /* A chunk by hand ([MS-XCA] 2.5): "abc", then a copy of 6 bytes from 3 bytes before. */
    static UCHAR chunk[] = {0x05, 0xB0, 0x08, 'a', 'b', 'c', 0x03, 0x20};
    ULONG size, buffer_work, fragment_work;
    CHECK_STATUS(RtlGetCompressionWorkSpaceSize(2, &buffer_work, &fragment_work), STATUS_SUCCESS);
    CHECK(buffer_work <= sizeof(work) && fragment_work <= sizeof(work));
    CHECK_STATUS(RtlGetCompressionWorkSpaceSize(0, &size, &size), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlGetCompressionWorkSpaceSize(0x202, &size, &size), STATUS_NOT_SUPPORTED);
    CHECK_STATUS(RtlGetCompressionWorkSpaceSize(9, &size, &size), STATUS_UNSUPPORTED_COMPRESSION);
    CHECK_STATUS(RtlDecompressBuffer(2, back, 100, chunk, sizeof(chunk), &size), STATUS_SUCCESS);
    CHECK_EQ(size, 9);
    CHECK_MEM(back, "abcabcabc", 9);
    for (ULONG i = 0; i < sizeof(plain); i++) {
        plain[i] = (UCHAR)("port driver "[i % 12] + i / 4096);
    }
    CHECK_STATUS(RtlCompressBuffer(2, plain, sizeof(plain), packed, sizeof(packed), 4096, &size, work), STATUS_SUCCESS);
    CHECK(size < 1000);
    ULONG packed_size = size;
    CHECK_STATUS(RtlDecompressBuffer(2, back, sizeof(back), packed, packed_size, &size), STATUS_SUCCESS);
    CHECK_EQ(size, sizeof(plain));
    CHECK_MEM(back, plain, sizeof(plain));
    CHECK_STATUS(RtlDecompressBuffer(2, back, 10, packed, packed_size, &size), STATUS_SUCCESS);
    CHECK_EQ(size, 10);
    CHECK_STATUS(RtlDecompressFragment(2, back, 200, packed, packed_size, 4000, &size, work), STATUS_SUCCESS);
    CHECK_EQ(size, 200);
    CHECK_MEM(back, plain + 4000, 200);
    CHECK_STATUS(RtlCompressBuffer(2, plain, sizeof(plain), packed, 10, 4096, &size, work), STATUS_BUFFER_TOO_SMALL);
    packed[1] = 0;
    CHECK_STATUS(RtlDecompressBuffer(2, back, sizeof(back), packed, packed_size, &size), STATUS_BAD_COMPRESSION_BUFFER);
}

extern __declspec(dllimport) PUSHORT NlsOemLeadByteInfo;
extern __declspec(dllimport) BOOLEAN NlsMbOemCodePageTag;
extern __declspec(dllimport) USHORT NlsAnsiCodePage;

KTEST(versions_and_code_pages)
{
    static RTL_OSVERSIONINFOEXW version, wanted;
    version.dwOSVersionInfoSize = sizeof(version);
    CHECK_STATUS(RtlGetVersion((PRTL_OSVERSIONINFOW)&version), STATUS_SUCCESS);
    ULONGLONG at_least = VerSetConditionMask(VerSetConditionMask(0, 2, 3), 1, 3);
    CHECK_EQ(at_least, 0x1B);
    wanted = version;
    CHECK_STATUS(RtlVerifyVersionInfo(&wanted, 3, at_least), STATUS_SUCCESS);
    wanted.dwMajorVersion--;
    wanted.dwMinorVersion += 5;
    CHECK_STATUS(RtlVerifyVersionInfo(&wanted, 3, at_least), STATUS_SUCCESS);
    wanted.dwMajorVersion += 2;
    CHECK_STATUS(RtlVerifyVersionInfo(&wanted, 3, at_least), 0xC0000059);
    CHECK_STATUS(RtlVerifyVersionInfo(&wanted, 3, 0), STATUS_INVALID_PARAMETER);
    wanted = version;
    CHECK_STATUS(RtlVerifyVersionInfo(&wanted, 4, VerSetConditionMask(0, 4, 1)), STATUS_SUCCESS);
    CHECK_STATUS(RtlVerifyVersionInfo(&wanted, 4, VerSetConditionMask(0, 4, 2)), 0xC0000059);
    CHECK_EQ(NlsMbOemCodePageTag, FALSE);
    CHECK_EQ(NlsAnsiCodePage, 1252);
    CHECK(NlsOemLeadByteInfo != NULL);
    CHECK_EQ(NlsOemLeadByteInfo[0x81], 0);
}

KTEST_BUGCHECK(compare_at_dispatch_level, 0x0A)
{
    UNICODE_STRING a = W(L"a"), b = W(L"b");
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    RtlCompareUnicodeString(&a, &b, FALSE);
}

KTEST_FAMILY("rtl_strings", KTEST_ENTRY(initialize), KTEST_ENTRY(copy_and_append), KTEST_ENTRY(compare),
             KTEST_ENTRY(case_mapping), KTEST_ENTRY(ansi), KTEST_ENTRY(oem), KTEST_ENTRY(buffers), KTEST_ENTRY(utf8),
             KTEST_ENTRY(numbers), KTEST_ENTRY(hash_and_duplicate), KTEST_ENTRY(guids), KTEST_ENTRY(times),
             KTEST_ENTRY(memory), KTEST_ENTRY(compression), KTEST_ENTRY(versions_and_code_pages),
             KTEST_BUGCHECK_ENTRY(compare_at_dispatch_level));
