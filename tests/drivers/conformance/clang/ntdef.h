/* mingw-w64's header, with the two macros that clang's MSVC mode does not take as constants. */
#include_next <ntdef.h>
#undef FIELD_OFFSET
#define FIELD_OFFSET(type, field) ((LONG)__builtin_offsetof(type, field))
#undef C_ASSERT
#define C_ASSERT(expression) _Static_assert(expression, #expression)
