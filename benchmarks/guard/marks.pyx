"""Marks around the counted part of a process: for callgrind, for `steady.c`, and for the trace of system calls."""

cdef extern from *:
    """
    #include <dlfcn.h>  /* with RTLD_DEFAULT, since Python.h has defined _GNU_SOURCE */
    #include <unistd.h>
    #include <valgrind/callgrind.h>
    static void (*mark_count)(int);
    static unsigned long long (*mark_allocations)(void);
    static int find_steady(void) {
        *(void **)&mark_count = dlsym(RTLD_DEFAULT, "steady_count");
        *(void **)&mark_allocations = dlsym(RTLD_DEFAULT, "steady_allocations");
        return mark_count && mark_allocations;
    }
    /* A call that fails immediately and that no other code makes: the trace contains the text. */
    static void mark_trace(const char *text, size_t size) { if (write(-1, text, size)) {} }
    static void toggle(void) { CALLGRIND_TOGGLE_COLLECT; }
    static void start(void) { CALLGRIND_START_INSTRUMENTATION; }
    static void dump(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
    """
    int find_steady()
    void mark_count(int on)
    unsigned long long mark_allocations()
    void mark_trace(const char *text, size_t size)
    void toggle()
    void c_start "start"()
    void c_dump "dump"(const char *name)

if not find_steady():
    raise ImportError("steady.so must be loaded first (LD_PRELOAD): run python -m benchmarks.guard")

cdef bint tracing = False


def instrument():
    """From here on callgrind looks at the process."""
    c_start()


def trace():
    """From here on begin, end and done are visible in a trace of system calls."""
    global tracing
    tracing = True


def begin():
    """What follows is counted."""
    if tracing:
        mark_trace("begin", 5)
    mark_count(1)
    toggle()


def end():
    """What follows is not counted."""
    toggle()
    mark_count(0)
    if tracing:
        mark_trace("end", 3)


def done(bytes name not None):
    """End the count since the last done() under *name*. Return the number of allocations."""
    c_dump(name)
    if tracing:
        mark_trace(name, <size_t>len(name))
    return mark_allocations()
