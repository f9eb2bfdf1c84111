/* Puts a pattern into all sixteen AVX registers, both halves, says so, goes on for a while, waits for a word, and looks at them again.
   Nothing between the two touches them: it is one piece of assembly. */

static unsigned char before[16][32] __attribute__((aligned(32)));
static unsigned char after[16][32] __attribute__((aligned(32)));
static const char warm[] = "warm\n";
static const long pause[2] = {0, 20000000};

static long call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define LOAD(n) "vmovdqa " #n "*32(%[before]), %%ymm" #n "\n\t"
#define STORE(n) "vmovdqa %%ymm" #n ", " #n "*32(%[after])\n\t"

void start(void)
{
    char word[8];
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 32; j++)
            before[i][j] = (unsigned char)(i * 37 + j * 11 + 5);
    __asm__ volatile(
        EACH(LOAD)
        /* write(1, "warm\n", 5) */
        "mov $1, %%eax\n\tmov $1, %%edi\n\tmov %[warm], %%rsi\n\tmov $5, %%edx\n\tsyscall\n\t"
        "mov $100, %%ebx\n\t"
        "1:\n\t"
        "mov $200000, %%ecx\n\t"
        "2:\n\tdec %%ecx\n\tjnz 2b\n\t"
        /* nanosleep(pause, 0) */
        "mov $35, %%eax\n\tmov %[pause], %%rdi\n\txor %%esi, %%esi\n\tsyscall\n\t"
        "dec %%ebx\n\tjnz 1b\n\t"
        /* read(0, word, 8) */
        "xor %%eax, %%eax\n\txor %%edi, %%edi\n\tmov %[word], %%rsi\n\tmov $8, %%edx\n\tsyscall\n\t"
        EACH(STORE)
        :
        : [before] "r"(before), [after] "r"(after), [warm] "r"(warm), [pause] "r"(pause), [word] "r"(word)
        : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r11", "memory");
    int same = 0;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 32; j++)
            same += before[i][j] == after[i][j];
    if (same == 16 * 32)
        call(1, 1, (long)"registers are as they were\n", 27);
    else
        call(1, 1, (long)"registers have changed\n", 23);
    call(60, same != 16 * 32, 0, 0);
}

__asm__(".globl _start\n_start:\n\tand $-16, %rsp\n\tcall start\n");
