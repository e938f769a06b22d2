/* A QEMU plugin that counts executed AArch64 instructions by class, between two marks.

   A mark is the system call getppid, which nothing else makes: the first starts counting, the second stops it, and so
   on. At each stop a line "class count class count ..." is appended to the file named by the argument out=FILE.

   QEMU's plugin interface, version 1 (docs/devel/tcg-plugins.rst); the few declarations that are used stand here, since
   the header is not part of Debian's packages. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
char *qemu_plugin_insn_disas(const struct qemu_plugin_insn *insn);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, void (*cb)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *tb, int op, void *where, uint64_t amount);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t id,
                                          void (*cb)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                     uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { DOT, MULTIPLY, FUSED, VECTOR, LOAD, STORE, BRANCH, SCALAR, CLASSES };
static const char *const NAMES[CLASSES] = {"dot", "multiply", "fused", "vector", "load", "store", "branch", "scalar"};

/* One translated block: how often it ran, and what is in it. */
struct block {
    struct block *next;
    uint64_t runs;
    uint32_t insns[CLASSES];
};

static int64_t getppid_number = 173; /* the argument mark=NUMBER names another */
static struct block *blocks;
static uint64_t began[CLASSES];
static int counting;
static char path[4096];

static int starts(const char *text, const char *with) { return strncmp(text, with, strlen(with)) == 0; }

/* Newer than some disassemblers: dot products, products of small matrices, float16. Arm ARM, section C7.2. */
static int is_dot(uint32_t code) {
    static const uint32_t patterns[][2] = {
        {0x9fe0fc00, 0x0e809400}, /* SDOT, UDOT */ {0xbfe0fc00, 0x0e809c00}, /* USDOT */
        {0x9fc0f400, 0x0f80e000}, /* by element */ {0xbf40f400, 0x0f00f000}, /* SUDOT, USDOT by element */
        {0xdfe0fc00, 0x4e80a400}, /* SMMLA, UMMLA */ {0xffe0fc00, 0x4e80ac00}, /* USMMLA */
        {0xbfe0fc00, 0x2e40fc00}, /* BFDOT */ {0xbfc0f400, 0x0f40f000}, /* BFDOT by element */
        {0xffe0fc00, 0x6e40ec00}, /* BFMMLA */
    };
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
        if ((code & patterns[i][0]) == patterns[i][1]) return 1;
    return 0;
}

static int is_half_fused(uint32_t code) {
    return (code & 0xbf60fc00) == 0x0e400c00 /* FMLA, FMLS */ || (code & 0xbfc0b400) == 0x0f001000 /* by element */;
}

static int class_of(const char *text) {
    static const char *const products[] = {"smull", "smlal", "umull", "umlal", "mla ", "mul v", "sqdmul"};
    if (starts(text, "fmla") || starts(text, "fmls") || starts(text, "fmadd")) return FUSED;
    for (size_t i = 0; i < sizeof products / sizeof *products; i++)
        if (starts(text, products[i]) && strstr(text, "v")) return MULTIPLY;
    if (starts(text, "ld")) return LOAD;
    if (starts(text, "st")) return STORE;
    if (text[0] == 'b' && (text[1] == ' ' || text[1] == '.' || text[1] == 'l' || text[1] == 'r')) return BRANCH;
    if (starts(text, "cb") || starts(text, "tb") || starts(text, "ret")) return starts(text, "tbl") ? VECTOR : BRANCH;
    const char *operand = strchr(text, ' ');
    if (operand != NULL && strchr("vqdshb", operand[1]) != NULL && operand[2] >= '0' && operand[2] <= '9') return VECTOR;
    return SCALAR;
}

static void totals(uint64_t *sums) {
    memset(sums, 0, sizeof(uint64_t) * CLASSES);
    for (const struct block *b = blocks; b != NULL; b = b->next)
        for (int c = 0; c < CLASSES; c++) sums[c] += b->runs * b->insns[c];
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    struct block *b = calloc(1, sizeof *b);
    size_t count = qemu_plugin_tb_n_insns(tb);
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        uint32_t code;
        memcpy(&code, qemu_plugin_insn_data(insn), sizeof code);
        char *text = qemu_plugin_insn_disas(insn);
        for (char *p = text; *p; p++)
            if (*p == '\t') *p = ' ';
        b->insns[is_dot(code) ? DOT : is_half_fused(code) ? FUSED : class_of(text)]++;
        free(text);
    }
    b->next = blocks;
    blocks = b;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, 0, &b->runs, 1);
}

/* Appends the counts of the interval that ends: its line is there before the system call returns. */
static void write_counts(const uint64_t *now) {
    FILE *out = fopen(path, "a");
    if (out == NULL) return;
    for (int c = 0; c < CLASSES; c++)
        fprintf(out, "%s %llu%c", NAMES[c], (unsigned long long)(now[c] - began[c]), c == CLASSES - 1 ? '\n' : ' ');
    fclose(out);
}

static void called(qemu_plugin_id_t id, unsigned vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                   uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)vcpu, (void)a1, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != getppid_number) return;
    uint64_t now[CLASSES];
    totals(now);
    if (counting) write_counts(now);
    memcpy(began, now, sizeof now);
    counting = !counting;
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc,
                                                               char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++)
        if (starts(argv[i], "mark=")) getppid_number = atoi(argv[i] + 5);
        else if (starts(argv[i], "out=")) snprintf(path, sizeof path, "%s", argv[i] + 4);
    if (path[0] == 0) return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
