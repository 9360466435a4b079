/* The C run-time library of the kernel: strings, formatted output, numbers, characters, sorting, and what compilers call.
 *
 * Expected values are those of Microsoft's documentation of its C library, and, for arithmetic and rand, of Python.
 *
 * Long because a family is one driver and a driver one file: a list of independent tests. */
#include "ktest.h"

#define EINVAL 22
#define ERANGE 34
#define STRUNCATE 80
#define TRUNCATE ((SIZE_T)-1)

typedef int(__cdecl *compare_routine)(const void *, const void *);

int __cdecl sprintf(char *, const char *, ...);
int __cdecl _snprintf(char *, SIZE_T, const char *, ...);
int __cdecl sprintf_s(char *, SIZE_T, const char *, ...);
int __cdecl _snprintf_s(char *, SIZE_T, SIZE_T, const char *, ...);
int __cdecl swprintf(WCHAR *, const WCHAR *, ...);
int __cdecl _snwprintf(WCHAR *, SIZE_T, const WCHAR *, ...);
int __cdecl swprintf_s(WCHAR *, SIZE_T, const WCHAR *, ...);
int __cdecl _snwprintf_s(WCHAR *, SIZE_T, SIZE_T, const WCHAR *, ...);
int __cdecl _vsnprintf(char *, SIZE_T, const char *, __builtin_va_list);
int __cdecl _vsnwprintf(WCHAR *, SIZE_T, const WCHAR *, __builtin_va_list);
int __cdecl _vsnprintf_s(char *, SIZE_T, SIZE_T, const char *, __builtin_va_list);
int __cdecl vsprintf_s(char *, SIZE_T, const char *, __builtin_va_list);
char *__cdecl strpbrk(const char *, const char *);
char *__cdecl _strset(char *, int);
int __cdecl atoi(const char *);
LONG __cdecl strtol(const char *, char **, int);
ULONG __cdecl strtoul(const char *, char **, int);
ULONG __cdecl wcstoul(const WCHAR *, WCHAR **, int);
int __cdecl iswctype(USHORT, USHORT);
int __cdecl iswdigit(USHORT);
USHORT __cdecl towupper(USHORT);
USHORT __cdecl towlower(USHORT);
int __cdecl wctomb(char *, WCHAR);
int __cdecl rand(void);
void __cdecl srand(unsigned);
int __cdecl _purecall(void);

static char text[128];
static WCHAR wide[128];

/* The output and its length. */
#define PRINTS(want, ...) \
    do { \
        CHECK_EQ(sprintf(text, __VA_ARGS__), sizeof(want) - 1); \
        CHECK_MEM(text, want, sizeof(want)); \
    } while (0)
#define WPRINTS(want, ...) \
    do { \
        CHECK_EQ(swprintf(wide, __VA_ARGS__), sizeof(want) / 2 - 1); \
        CHECK_MEM(wide, want, sizeof(want)); \
    } while (0)

KTEST(print_integers)
{
    PRINTS("-1 5 4294967295", "%d %i %u", -1, 5, -1);
    PRINTS("ff FF 10 0", "%x %X %o %d", 255, 255, 8, 0);
    PRINTS("-1 65535", "%hd %hu", 0xFFFF, 0x1FFFF);
    PRINTS("-1 7", "%ld %lu", -1L, 7UL);
    PRINTS("-9223372036854775808", "%I64d", (LONGLONG)0x8000000000000000ULL);
    PRINTS("18446744073709551615", "%I64u", ~0ULL);
    PRINTS("123456789abcdef 1", "%I64x %d", 0x123456789ABCDEFULL, 1);
    PRINTS("-5 6", "%lld %d", -5LL, 6);
    PRINTS("abcd", "%I32x", 0xABCD);
    PRINTS("7 8", "%Iu %d", (SIZE_T)7, 8);
}

KTEST(print_flags)
{
    PRINTS("[   42|42   |00042|+42| 42]", "[%5d|%-5d|%05d|%+d|% d]", 42, 42, 42, 42, 42);
    PRINTS("[0xff|0XFF|010|0]", "[%#x|%#X|%#o|%#x]", 255, 255, 8, 0);
    PRINTS("[000a|    000a|]", "[%.4x|%8.4x|%.0d]", 10, 10, 0);
    PRINTS("[0x00001f]", "[%#08x]", 0x1F);
    PRINTS("[   1|1   |001]", "[%*d|%*d|%.*d]", 4, 1, -4, 1, 3, 1);
    PRINTS("[-0042]", "[%05d]", -42);
    PRINTS("[+0042]", "[%+05d]", 42);
    PRINTS("[42   ]", "[%-05d]", 42);
    PRINTS("100%", "100%%");
    PRINTS("y", "%y");
}

KTEST(print_pointers)
{
#ifdef _WIN64
    PRINTS("00000000000000AB", "%p", (PVOID)0xAB);
#else
    PRINTS("000000AB", "%p", (PVOID)0xAB);
#endif
}

KTEST(print_strings)
{
    ANSI_STRING ansi = {4, 5, "ansi!"};
    UNICODE_STRING unicode = {14, 16, L"unicode!"};
    PRINTS("byte by [  byte] [byte  ]", "%s %.2s [%6s] [%-6s]", "byte", "byte", "byte", "byte");
    PRINTS("wide wide wide", "%S %ws %ls", L"wide", L"wide", L"wide");
    PRINTS("narrow", "%hs", "narrow");
    PRINTS("(null)", "%s", NULL);
    PRINTS("(nu", "%.3s", NULL);
    PRINTS("(null)", "%ws", NULL);
    PRINTS("ABC  D", "%c%C%wc%3c", 'A', L'B', L'C', 'D');
    PRINTS("ansi unicode", "%Z %wZ", &ansi, &unicode);
    PRINTS("[      uni]", "[%9.3wZ]", &unicode);
    PRINTS("(null)", "%wZ", NULL);
    PRINTS("", "%s", "");
    WPRINTS(L"wide narrow narrow", L"%s %S %hs", L"wide", "narrow", "narrow");
    WPRINTS(L"ansi unicode", L"%Z %wZ", &ansi, &unicode);
    WPRINTS(L"A B", L"%c %C", L'A', 'B');
    WPRINTS(L"0x7b 00123", L"%#x %05d", 123, 123);
}

static int vprint(char *to, SIZE_T count, const char *format, ...)
{
    __builtin_va_list list;
    __builtin_va_start(list, format);
    int result = _vsnprintf(to, count, format, list);
    __builtin_va_end(list);
    return result;
}

static int vprint_s(char *to, SIZE_T size, SIZE_T count, const char *format, ...)
{
    __builtin_va_list list;
    __builtin_va_start(list, format);
    int result = _vsnprintf_s(to, size, count, format, list);
    __builtin_va_end(list);
    return result;
}

KTEST(print_limits)
{
    memset(text, '~', sizeof(text));
    CHECK_EQ(_snprintf(text, 5, "%d-%d", 12, 34), 5);
    CHECK_MEM(text, "12-34~", 6);
    CHECK_EQ(_snprintf(text, 6, "%d-%d", 12, 34), 5);
    CHECK_MEM(text, "12-34\0~", 7);
    memset(text, '~', sizeof(text));
    CHECK_EQ(_snprintf(text, 3, "%d-%d", 12, 34), -1);
    CHECK_MEM(text, "12-~", 4);
    CHECK_EQ(_snprintf(text, 0, "x"), -1);
    CHECK_EQ(text[0], '1');
    CHECK_EQ(vprint(text, 20, "%s=%I64d;%d", "v", -1LL, 3), 6);
    CHECK_MEM(text, "v=-1;3", 7 - 1);
    CHECK_EQ(vprint(text, 2, "%s", "abc"), -1);
    memset(wide, 0x7E, sizeof(wide));
    CHECK_EQ(_snwprintf(wide, 4, L"%s", L"abcd"), 4);
    CHECK_MEM(wide, L"abcd\x7E7E", 10);
    CHECK_EQ(_snwprintf(wide, 3, L"%s", L"abcd"), -1);
}

KTEST(print_secure)
{
    memset(text, '~', sizeof(text));
    CHECK_EQ(sprintf_s(text, 6, "%d-%d", 12, 34), 5);
    CHECK_MEM(text, "12-34\0~", 7);
    CHECK_EQ(sprintf_s(text, 5, "%d-%d", 12, 34), -1);
    CHECK_EQ(text[0], 0);
    CHECK_EQ(sprintf_s(NULL, 5, "x"), -1);
    CHECK_EQ(sprintf_s(text, 0, "x"), -1);
    CHECK_EQ(_snprintf_s(text, 6, 2, "%d-%d", 12, 34), -1);
    CHECK_MEM(text, "12\0", 3);
    CHECK_EQ(_snprintf_s(text, 5, TRUNCATE, "%d-%d", 12, 34), -1);
    CHECK_MEM(text, "12-3\0", 5);
    CHECK_EQ(_snprintf_s(text, 5, 5, "%d-%d", 12, 34), -1);
    CHECK_EQ(text[0], 0);
    CHECK_EQ(_snprintf_s(text, 6, 5, "%d-%d", 12, 34), 5);
    CHECK_EQ(vprint_s(text, 9, TRUNCATE, "%s", "fits"), 4);
    CHECK_EQ(vprint_s(text, 4, TRUNCATE, "%s", "fits"), -1);
    CHECK_MEM(text, "fit\0", 4);
    CHECK_EQ(swprintf_s(wide, 4, L"%d", 123), 3);
    CHECK_EQ(swprintf_s(wide, 3, L"%d", 123), -1);
    CHECK_EQ(wide[0], 0);
    CHECK_EQ(_snwprintf_s(wide, 3, TRUNCATE, L"%d", 123), -1);
    CHECK_MEM(wide, L"12", 6);
}

KTEST(string_lengths_and_order)
{
    CHECK_EQ(strlen("abc"), 3);
    CHECK_EQ(strlen(""), 0);
    CHECK_EQ(wcslen(L"abc"), 3);
    CHECK_EQ(strnlen("abc", 2), 2);
    CHECK_EQ(strnlen("abc", 9), 3);
    CHECK_EQ(wcsnlen(L"abc", 0), 0);
    CHECK(strcmp("a", "b") < 0);
    CHECK(strcmp("b", "a") > 0);
    CHECK_EQ(strcmp("a", "a"), 0);
    CHECK(strcmp("\x80", "a") > 0);
    CHECK_EQ(strncmp("abc", "abd", 2), 0);
    CHECK_EQ(strncmp("abc", "abd", 0), 0);
    CHECK(wcscmp(L"\xFF00", L"a") > 0);
    CHECK_EQ(wcsncmp(L"abX", L"abY", 2), 0);
    CHECK_EQ(_stricmp("Port", "pORT"), 0);
    CHECK(_stricmp("Port", "pORTs") < 0);
    CHECK(_stricmp("_", "A") < 0);
    CHECK_EQ(_strnicmp("Port1", "pORT2", 4), 0);
    CHECK_EQ(_wcsicmp(L"Port", L"pORT"), 0);
    CHECK_EQ(_wcsnicmp(L"Port1", L"pORT2", 4), 0);
    CHECK(_wcsnicmp(L"Port1", L"pORT2", 5) < 0);
    CHECK_EQ(memcmp("a\0b", "a\0b", 3), 0);
    CHECK(memcmp("a\0c", "a\0b", 3) > 0);
    CHECK_EQ(memcmp("x", "y", 0), 0);
}

KTEST(string_searches)
{
    static const char path[] = "LPT1:LPT2";
    static const WCHAR wpath[] = L"LPT1:LPT2";
    CHECK_PTR(strchr(path, 'L'), path);
    CHECK_PTR(strrchr(path, 'L'), path + 5);
    CHECK_PTR(strchr(path, 0), path + 9);
    CHECK_PTR(strchr(path, 'Z'), NULL);
    CHECK_PTR(strchr(path, 0x100 + 'T'), path + 2);
    CHECK_PTR(strstr(path, "LPT2"), path + 5);
    CHECK_PTR(strstr(path, ""), path);
    CHECK_PTR(strstr(path, "COM"), NULL);
    CHECK_PTR(wcschr(wpath, L'1'), wpath + 3);
    CHECK_PTR(wcsrchr(wpath, L'T'), wpath + 7);
    CHECK_PTR(wcsstr(wpath, L"1:"), wpath + 3);
    CHECK_PTR(memchr(path, 'T', 9), path + 2);
    CHECK_PTR(memchr(path, 'T', 2), NULL);
    CHECK_EQ(strspn(path, "TPL"), 3);
    CHECK_EQ(strspn(path, ""), 0);
    CHECK_EQ(strcspn(path, ":"), 4);
    CHECK_EQ(strcspn(path, ""), 9);
    CHECK_PTR(strpbrk(path, "21"), path + 3);
    CHECK_PTR(strpbrk(path, "xyz"), NULL);
}

KTEST(string_tokens)
{
    char list[] = ",,a,bc,,";
    char *next = NULL;
    char *token = strtok_s(list, ",", &next);
    CHECK_PTR(token, list + 2);
    CHECK_EQ(strcmp(token, "a"), 0);
    token = strtok_s(NULL, ",", &next);
    CHECK_EQ(strcmp(token, "bc"), 0);
    CHECK_PTR(strtok_s(NULL, ",", &next), NULL);
    CHECK_PTR(strtok_s(NULL, ",", &next), NULL);
    CHECK_PTR(strtok_s(list, NULL, &next), NULL);
    WCHAR units[] = L"x;y", *rest = NULL;
    CHECK_PTR(wcstok_s(units, L";", &rest), units);
    CHECK_PTR(wcstok_s(NULL, L";", &rest), units + 2);
    CHECK_PTR(wcstok_s(NULL, L";", &rest), NULL);
}

KTEST(string_copies)
{
    memset(text, '~', sizeof(text));
    CHECK_PTR(strcpy(text, "abc"), text);
    CHECK_MEM(text, "abc\0~", 5);
    CHECK_PTR(strncpy(text, "xy", 4), text);
    CHECK_MEM(text, "xy\0\0~", 5);
    strncpy(text, "longer", 2);
    CHECK_MEM(text, "lo\0", 3);
    CHECK_PTR(strcat(text, "ng"), text);
    CHECK_EQ(strcmp(text, "long"), 0);
    strncat(text, "abcdef", 3);
    CHECK_EQ(strcmp(text, "longabc"), 0);
    strncat(text, "z", 0);
    CHECK_EQ(strlen(text), 7);
    CHECK_PTR(wcscpy(wide, L"abc"), wide);
    wcscat(wide, L"def");
    wcsncat(wide, L"ghi", 1);
    CHECK_EQ(wcscmp(wide, L"abcdefg"), 0);
    memmove(text + 1, text, 4);
    CHECK_MEM(text, "llongbc", 8 - 1);
    CHECK_PTR(memcpy(text, "XY", 2), text);
    CHECK_MEM(text, "XYong", 5);
    CHECK_PTR(memset(text, 0x141, 2), text);
    CHECK_MEM(text, "AAong", 5);
}

KTEST(string_secure_copies)
{
    memset(text, '~', sizeof(text));
    CHECK_EQ(strcpy_s(text, 5, "abcd"), 0);
    CHECK_MEM(text, "abcd\0~", 6);
    CHECK_EQ(strcpy_s(text, 4, "abcd"), ERANGE);
    CHECK_EQ(text[0], 0);
    CHECK_EQ(strcpy_s(text, 0, "a"), EINVAL);
    CHECK_EQ(strcpy_s(NULL, 4, "a"), EINVAL);
    text[0] = 'x';
    CHECK_EQ(strcpy_s(text, 4, NULL), EINVAL);
    CHECK_EQ(text[0], 0);
    CHECK_EQ(strncpy_s(text, 4, "abcdef", 3), 0);
    CHECK_MEM(text, "abc\0", 4);
    CHECK_EQ(strncpy_s(text, 4, "abcdef", 4), ERANGE);
    CHECK_EQ(text[0], 0);
    CHECK_EQ(strncpy_s(text, 4, "abcdef", TRUNCATE), STRUNCATE);
    CHECK_MEM(text, "abc\0", 4);
    CHECK_EQ(strncpy_s(text, 4, "abc", TRUNCATE), 0);
    CHECK_EQ(strncpy_s(text, 4, "x", 0), 0);
    CHECK_EQ(text[0], 0);
    CHECK_EQ(strncpy_s(NULL, 0, "x", 0), 0);
    CHECK_EQ(strncpy_s(NULL, 1, "x", 0), EINVAL);
    CHECK_EQ(strncpy_s(text, 4, NULL, 2), EINVAL);
    strcpy(text, "ab");
    CHECK_EQ(strcat_s(text, 5, "cd"), 0);
    CHECK_MEM(text, "abcd\0", 5);
    CHECK_EQ(strcat_s(text, 5, "e"), ERANGE);
    CHECK_EQ(text[0], 0);
    memset(text, 'y', 8);
    CHECK_EQ(strcat_s(text, 8, "e"), EINVAL);
    CHECK_EQ(text[0], 0);
    strcpy(text, "ab");
    CHECK_EQ(strncat_s(text, 5, "cdef", 2), 0);
    CHECK_MEM(text, "abcd\0", 5);
    CHECK_EQ(strncat_s(text, 7, "efgh", TRUNCATE), STRUNCATE);
    CHECK_MEM(text, "abcdef\0", 7);
    CHECK_EQ(wcscpy_s(wide, 4, L"abc"), 0);
    CHECK_EQ(wcscpy_s(wide, 3, L"abc"), ERANGE);
    CHECK_EQ(wide[0], 0);
    CHECK_EQ(wcsncpy_s(wide, 3, L"abc", TRUNCATE), STRUNCATE);
    CHECK_EQ(wcscat_s(wide, 4, L"c"), 0);
    CHECK_MEM(wide, L"abc", 8);
    CHECK_EQ(wcscat_s(wide, 4, L"d"), ERANGE);
    memset(text, '~', 4);
    CHECK_EQ(memcpy_s(text, 2, "abc", 3), ERANGE);
    CHECK_MEM(text, "\0\0~", 3);
    CHECK_EQ(memcpy_s(text, 3, "abc", 3), 0);
    CHECK_EQ(memcpy_s(NULL, 3, "abc", 3), EINVAL);
    CHECK_EQ(memcpy_s(NULL, 0, NULL, 0), 0);
    CHECK_EQ(memmove_s(text, 2, "xyz", 3), ERANGE);
    CHECK_MEM(text, "abc", 3);
    CHECK_EQ(memmove_s(text, 3, NULL, 3), EINVAL);
}

KTEST(string_changes)
{
    strcpy(text, "Port 1");
    CHECK_PTR(_strupr(text), text);
    CHECK_EQ(strcmp(text, "PORT 1"), 0);
    _strlwr(text);
    CHECK_EQ(strcmp(text, "port 1"), 0);
    CHECK_PTR(_strrev(text), text);
    CHECK_EQ(strcmp(text, "1 trop"), 0);
    _strnset(text, '-', 2);
    CHECK_EQ(strcmp(text, "--trop"), 0);
    _strnset(text, '*', 99);
    CHECK_EQ(strcmp(text, "******"), 0);
    _strset(text, '+');
    CHECK_EQ(strcmp(text, "++++++"), 0);
    CHECK_EQ(_strset_s(text, 7, '='), 0);
    CHECK_EQ(strcmp(text, "======"), 0);
    CHECK_EQ(_strset_s(text, 6, '='), EINVAL);
    CHECK_EQ(text[0], 0);
    wcscpy(wide, L"aB");
    CHECK_EQ(wcscmp(_wcsupr(wide), L"AB"), 0);
    CHECK_EQ(wcscmp(_wcslwr(wide), L"ab"), 0);
    CHECK_EQ(wcscmp(_wcsrev(wide), L"ba"), 0);
    CHECK_EQ(wcscmp(_wcsnset(wide, L'z', 1), L"za"), 0);
}

KTEST(numbers_read)
{
    char *end;
    WCHAR *wend;
    static const char hex[] = " 0x1fg";
    CHECK_EQ(atoi(" \t-12x"), -12);
    CHECK_EQ(atoi("+7"), 7);
    CHECK_EQ(atoi(""), 0);
    CHECK_EQ(atol("2147483647"), 2147483647);
    CHECK_EQ(_atoi64("-9223372036854775808"), 0x8000000000000000ULL);
    CHECK_EQ(_wtoi(L"  42x"), 42);
    CHECK_EQ(_wtol(L"-1"), -1);
    CHECK_EQ(strtol(hex, &end, 0), 31);
    CHECK_PTR(end, hex + 5);
    CHECK_EQ(strtol("017", NULL, 0), 15);
    CHECK_EQ(strtol("017", NULL, 10), 17);
    CHECK_EQ(strtol("zz", NULL, 36), 1295);
    CHECK_EQ(strtol("2147483648", NULL, 10), 0x7FFFFFFF);
    CHECK_EQ((ULONG)strtol("-2147483649", NULL, 10), 0x80000000);
    CHECK_EQ(strtoul("4294967295", NULL, 10), 0xFFFFFFFF);
    CHECK_EQ(strtoul("4294967296", NULL, 10), 0xFFFFFFFF);
    CHECK_EQ(strtoul("-1", NULL, 10), 0xFFFFFFFF);
    CHECK_EQ(strtoul("x", &end, 10), 0);
    CHECK_EQ(*end, 'x');
    CHECK_EQ(_strtoui64("FFFFFFFFFFFFFFFF", NULL, 16), ~0ULL);
    CHECK_EQ(wcstoul(L"0x378;", &wend, 0), 0x378);
    CHECK_EQ(*wend, L';');
}

KTEST(numbers_written)
{
    CHECK_EQ(_itoa_s(-15, text, 4, 10), 0);
    CHECK_EQ(strcmp(text, "-15"), 0);
    CHECK_EQ(_itoa_s(-15, text, 3, 10), ERANGE);
    CHECK_EQ(text[0], 0);
    CHECK_EQ(_itoa_s(-1, text, 9, 16), 0);
    CHECK_EQ(strcmp(text, "ffffffff"), 0);
    CHECK_EQ(_itoa_s(1, text, 9, 1), EINVAL);
    CHECK_EQ(_itoa_s(1, text, 9, 37), EINVAL);
    CHECK_EQ(_itoa_s(1, NULL, 9, 10), EINVAL);
    CHECK_EQ(_itoa_s(1, text, 0, 10), EINVAL);
    CHECK_EQ(_ultoa_s(0xFFFFFFFF, text, 11, 10), 0);
    CHECK_EQ(strcmp(text, "4294967295"), 0);
    CHECK_EQ(_i64toa_s((LONGLONG)0x8000000000000000ULL, text, 21, 10), 0);
    CHECK_EQ(strcmp(text, "-9223372036854775808"), 0);
    CHECK_EQ(_itow_s(5, wide, 4, 2), 0);
    CHECK_EQ(wcscmp(wide, L"101"), 0);
    CHECK_EQ(_ui64tow_s(~0ULL, wide, 17, 16), 0);
    CHECK_EQ(wcscmp(wide, L"ffffffffffffffff"), 0);
    CHECK_PTR(_itoa(0, text, 10), text);
    CHECK_EQ(strcmp(text, "0"), 0);
    CHECK_PTR(_itow(35, wide, 36), wide);
    CHECK_EQ(wcscmp(wide, L"z"), 0);
}

KTEST(characters)
{
    CHECK(isalpha('a') && isalpha('Z'));
    CHECK(!isalpha('1') && !isalpha(0xE4));
    CHECK(isupper('A') && !isupper('a'));
    CHECK(islower('a') && !islower('A'));
    CHECK(isdigit('0') && isdigit('9') && !isdigit('a'));
    CHECK(isxdigit('f') && isxdigit('F') && !isxdigit('g'));
    CHECK(isspace(' ') && isspace('\v') && !isspace('_'));
    CHECK(isprint(' ') && isprint('~') && !isprint('\t') && !isprint(0x7F));
    CHECK(isalnum('5') && !isalnum('-'));
    CHECK(iswctype(L'7', 4) && !iswctype(L'7', 3));
    CHECK(iswdigit(L'7') && !iswdigit(0x0667));
    CHECK_EQ(toupper('q'), 'Q');
    CHECK_EQ(toupper('1'), '1');
    CHECK_EQ(tolower('Q'), 'q');
    CHECK_EQ(towupper(0xE4), 0xC4);
    CHECK_EQ(towlower(0xC4), 0xE4);
}

KTEST(multibyte)
{
    CHECK_EQ(mbstowcs(wide, "a\x80", 9), 2);
    CHECK_MEM(wide, L"a\x20AC", 6);
    CHECK_EQ(mbstowcs(NULL, "abc", 0), 3);
    CHECK_EQ(wcstombs(text, L"\x20ACz", 9), 2);
    CHECK_MEM(text, "\x80z\0", 3);
    CHECK_EQ(wcstombs(text, L"\x0416", 9), (SIZE_T)-1);
    CHECK_EQ(mbtowc(wide, "b", 1), 1);
    CHECK_EQ(wide[0], L'b');
    CHECK_EQ(mbtowc(wide, "", 1), 0);
    CHECK_EQ(mbtowc(wide, "b", 0), -1);
    CHECK_EQ(wctomb(text, 0x20AC), 1);
    CHECK_EQ((UCHAR)text[0], 0x80);
    CHECK_EQ(wctomb(text, 0x0416), -1);
}

static ULONG comparisons;

static int __cdecl compare_longs(const void *first, const void *second)
{
    LONG a = *(const LONG *)first, b = *(const LONG *)second;
    comparisons++;
    return a < b ? -1 : a > b;
}

KTEST(sorting)
{
    LONG numbers[] = {5, -3, 9, 0, 5, -7, 2}, sorted[] = {-7, -3, 0, 2, 5, 5, 9}, key = 2;
    qsort(numbers, 7, sizeof(LONG), compare_longs);
    CHECK_MEM(numbers, sorted, sizeof(sorted));
    CHECK(comparisons > 5);
    qsort(numbers, 1, sizeof(LONG), compare_longs);
    qsort(numbers, 0, sizeof(LONG), compare_longs);
    CHECK_MEM(numbers, sorted, sizeof(sorted));
    CHECK_PTR(bsearch(&key, sorted, 7, sizeof(LONG), compare_longs), &sorted[3]);
    key = -7;
    CHECK_PTR(bsearch(&key, sorted, 7, sizeof(LONG), compare_longs), &sorted[0]);
    key = 9;
    CHECK_PTR(bsearch(&key, sorted, 7, sizeof(LONG), compare_longs), &sorted[6]);
    key = 4;
    CHECK_PTR(bsearch(&key, sorted, 7, sizeof(LONG), compare_longs), NULL);
    CHECK_PTR(bsearch(&key, sorted, 0, sizeof(LONG), compare_longs), NULL);
}

KTEST(random)
{
    srand(1);
    CHECK_EQ(rand(), 41);
    CHECK_EQ(rand(), 18467);
    CHECK_EQ(rand(), 6334);
    srand(1);
    CHECK_EQ(rand(), 41);
    srand(12345);
    CHECK_EQ(rand(), 7584);
}

KTEST_BUGCHECK(pure_call, 0x1E)
{
    _purecall();
}

/* ---- What compilers call. ---- */

#ifdef _WIN64
KTEST(stack_probe)
{
    ULONG_PTR before, after, size = 0x3000, kept = 0x1234;
    __asm__ volatile("movq %%rsp, %0\n\tmovq %2, %%rax\n\tcall __chkstk\n\tmovq %%rsp, %1\n\tmovq %%rax, %2"
                     : "=&b"(before), "=&S"(after), "+D"(size), "+c"(kept)
                     :
                     : "rax", "r10", "r11", "cc", "memory");
    CHECK_EQ(before, after);
    CHECK_EQ(size, 0x3000);
    CHECK_EQ(kept, 0x1234);
}
#else
LONGLONG NTAPI mul(LONGLONG, LONGLONG) __asm__("__allmul");
LONGLONG NTAPI div_signed(LONGLONG, LONGLONG) __asm__("__alldiv");
LONGLONG NTAPI rem_signed(LONGLONG, LONGLONG) __asm__("__allrem");
ULONGLONG NTAPI div_unsigned(ULONGLONG, ULONGLONG) __asm__("__aulldiv");
ULONGLONG NTAPI rem_unsigned(ULONGLONG, ULONGLONG) __asm__("__aullrem");

/* Dividend, divisor, and what Python says: quotient and remainder, unsigned, then signed (rounded towards 0). */
static const ULONGLONG divisions[][6] = {
    {0x7ULL, 0x2ULL, 0x3ULL, 0x1ULL, 0x3ULL, 0x1ULL},
    {0xFFFFFFFFFFFFFFF9ULL, 0x2ULL, 0x7FFFFFFFFFFFFFFCULL, 0x1ULL, 0xFFFFFFFFFFFFFFFDULL, 0xFFFFFFFFFFFFFFFFULL},
    {0x7ULL, 0xFFFFFFFFFFFFFFFEULL, 0x0ULL, 0x7ULL, 0xFFFFFFFFFFFFFFFDULL, 0x1ULL},
    {0xFFFFFFFFFFFFFFF9ULL, 0xFFFFFFFFFFFFFFFEULL, 0x0ULL, 0xFFFFFFFFFFFFFFF9ULL, 0x3ULL, 0xFFFFFFFFFFFFFFFFULL},
    {0xFFFFFFFFFFFFFFFFULL, 0xAULL, 0x1999999999999999ULL, 0x5ULL, 0x0ULL, 0xFFFFFFFFFFFFFFFFULL},
    {0x123456789ABCDEF0ULL, 0x12345678ULL, 0x100000008ULL, 0x91A2B30ULL, 0x100000008ULL, 0x91A2B30ULL},
    {0x123456789ABCDEF0ULL, 0x100000000ULL, 0x12345678ULL, 0x9ABCDEF0ULL, 0x12345678ULL, 0x9ABCDEF0ULL},
    {0xFFFFFFFFFFFFFFFFULL, 0xFFFFFFFFULL, 0x100000001ULL, 0x0ULL, 0x0ULL, 0xFFFFFFFFFFFFFFFFULL},
    {0xFEDCBA9876543210ULL, 0x123456789ULL, 0xE0000000ULL, 0x96543210ULL, 0xFFFFFFFFFF000000ULL, 0xFFFFFFFFFF543210ULL},
    {0x8000000000000000ULL, 0xFFFFFFFFFFFFFFFFULL, 0x0ULL, 0x8000000000000000ULL, 0x8000000000000000ULL, 0x0ULL},
    {0x8000000000000000ULL, 0x1ULL, 0x8000000000000000ULL, 0x0ULL, 0x8000000000000000ULL, 0x0ULL},
    {0xFFFFFFFF00000000ULL, 0xFFFFFFFF00000001ULL, 0x0ULL, 0xFFFFFFFF00000000ULL, 0x1ULL, 0xFFFFFFFFFFFFFFFFULL},
    {0x7FFFFFFFFFFFFFFFULL, 0x7FFFFFFFFFFFFFFEULL, 0x1ULL, 0x1ULL, 0x1ULL, 0x1ULL},
    {0x5ULL, 0x500000000ULL, 0x0ULL, 0x5ULL, 0x0ULL, 0x5ULL},
    {0xFFFFFFFFFFFFFFFEULL, 0x8000000000000001ULL, 0x1ULL, 0x7FFFFFFFFFFFFFFDULL, 0x0ULL, 0xFFFFFFFFFFFFFFFEULL},
    {0x100000000ULL, 0x1FFFFFFFFULL, 0x0ULL, 0x100000000ULL, 0x0ULL, 0x100000000ULL},
};

/* Quotient and remainder (in EBX:ECX) of a division. */
#define DIVIDE_BOTH(function, a, b, quotient, remainder) \
    do { \
        ULONG operands[4] = {(ULONG)(a), (ULONG)((a) >> 32), (ULONG)(b), (ULONG)((b) >> 32)}; \
        ULONG low, high, rlow, rhigh; \
        __asm__ volatile("pushl 12(%%esi)\n\tpushl 8(%%esi)\n\tpushl 4(%%esi)\n\tpushl (%%esi)\n\tcall " function \
                         : "=a"(low), "=d"(high), "=c"(rlow), "=b"(rhigh) \
                         : "S"(operands) \
                         : "cc", "memory"); \
        (quotient) = ((ULONGLONG)high << 32) | low; \
        (remainder) = ((ULONGLONG)rhigh << 32) | rlow; \
    } while (0)

KTEST(divisions_64)
{
    for (ULONG i = 0; i < RTL_NUMBER_OF(divisions); i++) {
        const ULONGLONG *d = divisions[i];
        ULONGLONG quotient, remainder;
        CHECK_EQ(div_unsigned(d[0], d[1]), d[2]);
        CHECK_EQ(rem_unsigned(d[0], d[1]), d[3]);
        CHECK_EQ(div_signed((LONGLONG)d[0], (LONGLONG)d[1]), d[4]);
        CHECK_EQ(rem_signed((LONGLONG)d[0], (LONGLONG)d[1]), d[5]);
        DIVIDE_BOTH("__aulldvrm", d[0], d[1], quotient, remainder);
        CHECK_EQ(quotient, d[2]);
        CHECK_EQ(remainder, d[3]);
        DIVIDE_BOTH("__alldvrm", d[0], d[1], quotient, remainder);
        CHECK_EQ(quotient, d[4]);
        CHECK_EQ(remainder, d[5]);
    }
}

KTEST(multiplication_64)
{
    CHECK_EQ(mul(0, 5), 0);
    CHECK_EQ(mul(-3, 7), -21LL);
    CHECK_EQ(mul(0x123456789LL, 0xABCDEF01LL), 0xC379AAAB5AA34E89ULL);
    CHECK_EQ(mul(0x100000000LL, 0x100000000LL), 0);
    CHECK_EQ(mul(0x7FFFFFFFFFFFFFFFLL, -1), 0x8000000000000001ULL);
    CHECK_EQ(mul(0xFFFFFFFFLL, 0xFFFFFFFFLL), 0xFFFFFFFE00000001ULL);
}

#define SHIFT(function, value, count) \
    ({ \
        ULONG low = (ULONG)(value), high = (ULONG)((ULONGLONG)(value) >> 32), by = (count); \
        __asm__ volatile("call " function : "+a"(low), "+d"(high), "+c"(by) : : "cc", "memory"); \
        ((ULONGLONG)high << 32) | low; \
    })

KTEST(shifts_64)
{
    CHECK_EQ(SHIFT("__allshl", 0x0123456789ABCDEFULL, 0), 0x0123456789ABCDEFULL);
    CHECK_EQ(SHIFT("__allshl", 0x0123456789ABCDEFULL, 4), 0x123456789ABCDEF0ULL);
    CHECK_EQ(SHIFT("__allshl", 0x0123456789ABCDEFULL, 32), 0x89ABCDEF00000000ULL);
    CHECK_EQ(SHIFT("__allshl", 0x0123456789ABCDEFULL, 63), 0x8000000000000000ULL);
    CHECK_EQ(SHIFT("__allshl", 0x0123456789ABCDEFULL, 64), 0);
    CHECK_EQ(SHIFT("__allshl", 0x0123456789ABCDEFULL, 255), 0);
    CHECK_EQ(SHIFT("__aullshr", 0xF123456789ABCDEFULL, 4), 0x0F123456789ABCDEULL);
    CHECK_EQ(SHIFT("__aullshr", 0xF123456789ABCDEFULL, 36), 0x0F123456ULL);
    CHECK_EQ(SHIFT("__aullshr", 0xF123456789ABCDEFULL, 63), 1);
    CHECK_EQ(SHIFT("__aullshr", 0xF123456789ABCDEFULL, 64), 0);
    CHECK_EQ(SHIFT("__allshr", 0xF123456789ABCDEFULL, 4), 0xFF123456789ABCDEULL);
    CHECK_EQ(SHIFT("__allshr", 0xF123456789ABCDEFULL, 36), 0xFFFFFFFFFF123456ULL);
    CHECK_EQ(SHIFT("__allshr", 0xF123456789ABCDEFULL, 64), ~0ULL);
    CHECK_EQ(SHIFT("__allshr", 0x7123456789ABCDEFULL, 99), 0);
}

KTEST_BUGCHECK(division_by_zero, 0x8E)
{
    div_unsigned(1, 0);
}

/* Takes stack by a probe; returns how much ESP went down, and gives it back. */
#define PROBE(function, bytes) \
    ({ \
        ULONG taken, size = (bytes), kept = 0x55; \
        __asm__ volatile("movl %%esp, %%esi\n\tmovl %1, %%eax\n\tcall " function \
                         "\n\tmovl %%esi, %0\n\tsubl %%esp, %0\n\tmovl %%esp, %1\n\tmovl %%esi, %%esp" \
                         : "=&b"(taken), "+D"(size), "+c"(kept) \
                         : \
                         : "eax", "esi", "edx", "cc", "memory"); \
        CHECK_EQ(kept, 0x55); \
        (ULONGLONG)size << 32 | taken; \
    })

KTEST(stack_probe)
{
    CHECK_EQ((ULONG)PROBE("__chkstk", 0), 0);
    CHECK_EQ((ULONG)PROBE("__chkstk", 64), 64);
    CHECK_EQ((ULONG)PROBE("__chkstk", 0x2004), 0x2004);
    CHECK_EQ((ULONG)PROBE("__alloca_probe", 0x1000), 0x1000);
    ULONGLONG probed = PROBE("__alloca_probe_16", 20);
    CHECK((ULONG)probed >= 20 && (ULONG)probed < 36);
    CHECK_EQ((ULONG)(probed >> 32) % 16, 0);
    probed = PROBE("__alloca_probe_8", 0x1003);
    CHECK((ULONG)probed >= 0x1003 && (ULONG)probed < 0x100B);
    CHECK_EQ((ULONG)(probed >> 32) % 8, 0);
}
#endif

#ifdef _WIN64
#define COMPILER_TESTS KTEST_ENTRY(stack_probe)
#else
#define COMPILER_TESTS \
    KTEST_ENTRY(divisions_64), KTEST_ENTRY(multiplication_64), KTEST_ENTRY(shifts_64), KTEST_ENTRY(stack_probe), \
        KTEST_BUGCHECK_ENTRY(division_by_zero)
#endif

KTEST_FAMILY("crt", KTEST_ENTRY(print_integers), KTEST_ENTRY(print_flags), KTEST_ENTRY(print_pointers),
             KTEST_ENTRY(print_strings), KTEST_ENTRY(print_limits), KTEST_ENTRY(print_secure),
             KTEST_ENTRY(string_lengths_and_order), KTEST_ENTRY(string_searches), KTEST_ENTRY(string_tokens),
             KTEST_ENTRY(string_copies), KTEST_ENTRY(string_secure_copies), KTEST_ENTRY(string_changes),
             KTEST_ENTRY(numbers_read), KTEST_ENTRY(numbers_written), KTEST_ENTRY(characters), KTEST_ENTRY(multibyte),
             KTEST_ENTRY(sorting), KTEST_ENTRY(random), KTEST_BUGCHECK_ENTRY(pure_call), COMPILER_TESTS);
