/* Instead of mingw-w64's header: it includes vector headers that do not fit clang's. The DDK's inline functions need
 * these two, and no test driver may use them: a guest's IRQL is no CR8. */
unsigned long long __readcr8(void);
void __writecr8(unsigned long long);
