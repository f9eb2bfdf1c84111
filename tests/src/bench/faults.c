/*
 * The program whose faults are measured: it touches pages of a file and reads the time-stamp counter before and behind.
 * For x86-64 Linux, without a library, so that nothing but what is measured happens:
 *   cc -O2 -ffreestanding -nostdlib -static -fno-pie -no-pie -fno-stack-protector
 *
 * faults FILE walk N     touches N pages
 * faults FILE trips N S  touches N pages, each S behind the last, each in a mapping of its own
 * faults FILE held N     with references held: faults on data, text and written pages, one by one, and N pages in a row
 *
 * Each page of the file begins with a return instruction. It prints `sample NAME TICKS` for each measurement, and `done`.
 */

typedef unsigned long u64;

enum { READ = 1, WRITE = 2, EXEC = 4, PAGE = 4096, SINGLE = 64, GROUP = 32 };

static long call(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static inline u64 ticks(void)
{
	unsigned low, high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high) :: "memory");
	return (u64)high << 32 | low;
}

static void finish(int code)
{
	for (;;)
		call(231, code, 0, 0, 0, 0, 0);
}

static char text[1 << 16];
static u64 length;

static void put(const char *from)
{
	while (*from && length < sizeof text)
		text[length++] = *from++;
}

static void flush(void)
{
	u64 done = 0;
	while (done < length) {
		long written = call(1, 1, (long)(text + done), length - done, 0, 0, 0);
		if (written <= 0)
			finish(3);
		done += written;
	}
	length = 0;
}

static void sample(const char *name, u64 value)
{
	char digits[24];
	int at = sizeof digits - 1;
	digits[at] = 0;
	do
		digits[--at] = '0' + value % 10;
	while (value /= 10);
	put("sample ");
	put(name);
	put(" ");
	put(digits + at);
	put("\n");
	if (length > sizeof text / 2)
		flush();
}

static void fail(const char *what)
{
	put("failed: ");
	put(what);
	put("\n");
	flush();
	finish(1);
}

static int file;

/* MAP_PRIVATE */
static char *map(u64 page, u64 pages, int rights)
{
	long at = call(9, 0, pages * PAGE, rights, 2, file, page * PAGE);
	if (at < 0 && at > -4096)
		fail("mmap");
	return (char *)at;
}

static void unmap(char *at, u64 pages)
{
	if (call(11, (long)at, pages * PAGE, 0, 0, 0, 0))
		fail("munmap");
}

static u64 read_time(volatile char *at, u64 pages)
{
	u64 start = ticks();
	do {
		(void)*at;
		at += PAGE;
	} while (--pages);
	return ticks() - start;
}

static u64 call_time(char *at)
{
	u64 start = ticks();
	__asm__ volatile("call *%0" :: "r"(at) : "memory", "cc");
	return ticks() - start;
}

static u64 write_time(volatile char *at)
{
	u64 start = ticks();
	*at = 1;
	return ticks() - start;
}

static void held(u64 pages)
{
	static char *single[SINGLE];
	char *all = map(0, pages, READ);
	read_time(all, pages);
	for (u64 i = 0; i < SINGLE; i++)
		sample("touch", read_time(all + i * PAGE, 1));
	unmap(all, pages);
	all = map(0, pages, READ);
	for (u64 i = 0; i + GROUP <= pages; i += GROUP)
		sample("sequential", read_time(all + i * PAGE, GROUP));
	unmap(all, pages);

	/* Mappings of one page, of every second page of the file: nothing around them can be mapped. */
	for (u64 i = 0; i < SINGLE; i++)
		sample("data", read_time(single[i] = map(2 * i, 1, READ), 1));
	for (u64 i = 0; i < SINGLE; i++)
		unmap(single[i], 1);
	for (u64 i = 0; i < SINGLE; i++)
		sample("text", call_time(single[i] = map(2 * i, 1, READ | EXEC)));
	for (u64 i = 0; i < SINGLE; i++)
		unmap(single[i], 1);
	for (u64 i = 0; i < SINGLE; i++) {
		single[i] = map(2 * i, 1, READ | WRITE);
		read_time(single[i], 1);
		sample("break", write_time(single[i]));
	}
	for (u64 i = 0; i < SINGLE; i++)
		unmap(single[i], 1);
}

static u64 number(const char *from)
{
	u64 value = 0;
	for (; *from >= '0' && *from <= '9'; from++)
		value = value * 10 + (*from - '0');
	return value;
}

void start(u64 *stack)
{
	u64 count = stack[0];
	char **arguments = (char **)(stack + 1);
	if (count < 4)
		finish(2);
	file = call(257, -100, (long)arguments[1], 0, 0, 0, 0);
	if (file < 0)
		fail("open");
	u64 pages = number(arguments[3]);
	switch (arguments[2][0]) {
	case 'w':
		read_time(map(0, pages, READ), pages);
		break;
	case 't':
		for (u64 i = 0; i < pages && count > 4; i++)
			sample("asked", read_time(map(i * number(arguments[4]), 1, READ), 1));
		break;
	case 'h':
		held(pages);
		break;
	}
	put("done\n");
	flush();
	finish(0);
}

__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start\n");
