/* The emulated GPU's threads: see machine.h. */
#include "machine.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

/* What the kernel has no more of: H200's. */
#define SHARED_BYTES (227 * 1024)
#define STACK_BYTES ((size_t)256 << 10)
#define N_BARRIERS 16

/* Rounds in vain before a block's CPU is left to others, and for how long. */
#define N_LOOKS 3
#define PAUSE_US 30

/* The dynamic shared memory of the block that this thread of the CPU is; block.cuh declares it. */
__thread __attribute__((aligned(128))) char memory[SHARED_BYTES];

__thread const emulator_place *emulator_now;

namespace {

struct warp {
    uint64_t words[2][32];
    uint64_t n_exchanges;
    uint32_t n_arrived;
};

struct barrier {
    uint64_t n_phases;
    uint32_t n_arrived;
};

/* What a thread waits for: (*word & mask) != value. */
struct condition {
    const uint64_t *word;
    uint64_t mask, value;
};

struct fiber {
    emulator_place place;
    void *stack_pointer;
    bool is_done;
};

const uint64_t always = 1;

struct block {
    std::vector<fiber> fibers;
    std::vector<condition> conditions; /* by thread */
    std::vector<warp> warps;
    barrier barriers[N_BARRIERS];
    fiber *running;
    void *scheduler; /* stack pointer */
    bool has_moved;  /* a thread has run that did not only look in vain */
    void (*body)(const void *);
    const void *arguments;
};

__thread block *here;

} /* namespace */

/* Puts the registers that a call preserves on the stack, and goes on on the other one. */
extern "C" void emulator_switch(void **from, void *to);
asm(".text\n"
    ".globl emulator_switch\n"
    "emulator_switch:\n"
    "    push %rbp\n    push %rbx\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
    "    mov %rsp, (%rdi)\n"
    "    mov %rsi, %rsp\n"
    "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbx\n    pop %rbp\n"
    "    ret\n");

void emulator_wait(const uint64_t *word, uint64_t mask, uint64_t value)
{
    if ((*word & mask) != value)
        return;
    here->conditions[here->running->place.thread.x] = {word, mask, value};
    emulator_switch(&here->running->stack_pointer, here->scheduler);
    here->has_moved = true;
}

void emulator_yield()
{
    here->conditions[here->running->place.thread.x] = {&always, 1, 0};
    emulator_switch(&here->running->stack_pointer, here->scheduler);
}

const uint64_t *emulator_exchange(uint64_t mine)
{
    uint32_t thread = here->running->place.thread.x;
    warp &own = here->warps[thread / 32];
    uint64_t exchange = own.n_exchanges;
    /* Two sets: who reads the one may be late by an exchange, never by two. */
    uint64_t *words = own.words[exchange % 2];
    words[thread % 32] = mine;
    if (++own.n_arrived == 32) {
        own.n_arrived = 0;
        own.n_exchanges++;
    }
    emulator_wait(&own.n_exchanges, ~0ull, exchange);
    return words;
}

void emulator_sync(int index, unsigned n_threads)
{
    barrier &own = here->barriers[index];
    uint64_t phase = own.n_phases;
    if (++own.n_arrived == n_threads) {
        own.n_arrived = 0;
        own.n_phases++;
    }
    emulator_wait(&own.n_phases, ~0ull, phase);
}

namespace {

/* Where a thread begins; the scheduler has made it the running one. */
void begin()
{
    here->body(here->arguments);
    here->running->is_done = true;
    here->has_moved = true;
    emulator_wait(&always, 1, 1);
    abort(); /* nobody runs it again */
}

/* Blocks' stacks outlive a launch: the pages of 10,000 of them are dear to come by. */
struct stack_pool {
    std::mutex lock;
    std::vector<std::pair<uint32_t, char *>> unused; /* for how many threads */
};

stack_pool pool;

char *take_stacks(uint32_t n_threads)
{
    std::lock_guard<std::mutex> guard(pool.lock);
    for (auto &one : pool.unused)
        if (one.first == n_threads) {
            char *stacks = one.second;
            one = pool.unused.back();
            pool.unused.pop_back();
            return stacks;
        }
    void *mapped = mmap(NULL, n_threads * STACK_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) {
        perror("emulator: stacks");
        abort();
    }
    return (char *)mapped;
}

void give_stacks(uint32_t n_threads, char *stacks)
{
    std::lock_guard<std::mutex> guard(pool.lock);
    pool.unused.push_back({n_threads, stacks});
}

/* As a call leaves it: aligned to 16 before the return address, six registers above it. */
void *begun_stack(char *stack)
{
    void **top = (void **)(stack + STACK_BYTES - 64);
    *--top = NULL;
    *--top = (void *)&begin;
    return top - 6;
}

void resume(fiber &one)
{
    here->running = &one;
    emulator_now = &one.place;
    emulator_switch(&here->scheduler, one.stack_pointer);
}

/* Runs a warp as long as its lanes get anywhere together. Returns how many have ended. */
uint32_t run_warp(uint32_t index)
{
    uint32_t n_done = 0;
    for (int pass = 0; pass < 256; pass++) {
        uint64_t before = here->warps[index].n_exchanges;
        n_done = 0;
        for (uint32_t thread = 32 * index; thread < 32 * index + 32; thread++) {
            const condition &awaited = here->conditions[thread];
            if ((*awaited.word & awaited.mask) != awaited.value)
                resume(here->fibers[thread]);
            n_done += here->fibers[thread].is_done;
        }
        if (here->warps[index].n_exchanges == before)
            break;
    }
    return n_done;
}

void run_block(dim3 grid, dim3 size, uint32_t index, void (*body)(const void *),
               const void *arguments)
{
    block own = {};
    here = &own;
    own.fibers.resize(size.x);
    own.conditions.assign(size.x, {&always, 1, 0});
    own.warps.resize(size.x / 32);
    own.body = body;
    own.arguments = arguments;
    char *stacks = take_stacks(size.x);
    for (uint32_t t = 0; t < size.x; t++) {
        own.fibers[t].place = {{t, 0, 0}, {index, 0, 0}, size, grid};
        own.fibers[t].stack_pointer = begun_stack(stacks + t * STACK_BYTES);
    }
    uint32_t n_in_vain = 0;
    for (uint32_t n_done = 0; n_done < size.x;) {
        n_done = 0;
        own.has_moved = false;
        for (uint32_t w = 0; w < size.x / 32; w++)
            n_done += run_warp(w);
        /* There are more blocks than CPUs: who only looks leaves them to those who work. */
        n_in_vain = own.has_moved ? 0 : n_in_vain + 1;
        if (n_in_vain > N_LOOKS)
            usleep(PAUSE_US);
    }
    give_stacks(size.x, stacks);
}

} /* namespace */

void emulator_run(dim3 grid, dim3 size, void (*body)(const void *), const void *arguments)
{
    std::vector<std::thread> blocks;
    for (uint32_t b = 0; b < grid.x; b++)
        blocks.emplace_back(run_block, grid, size, b, body, arguments);
    for (std::thread &one : blocks)
        one.join();
}
