/* A Cryptoki module in front of another one: it counts calls, and can be told to behave as hardware does.
 *
 * The module behind it is named by the environment variable COUNTED_MODULE when it is loaded.  Everything else is
 * read and set through the exported variable "counting", whose layout tests/support/counting_module.py repeats. */

#include <dlfcn.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

typedef unsigned long ulong_t;

struct list {
    unsigned char version[2];
    void *functions[68];
};

struct token_info {
    unsigned char texts[96];
    ulong_t flags, max_sessions, sessions, max_rw_sessions;
};

struct initialize_args {
    void *mutex_functions[4];
    ulong_t flags;
    void *reserved;
};

enum { INITIALIZE = 0, TOKEN_INFO = 6, OPEN_SESSION = 12, CLOSE_SESSION = 13, LOGIN = 18, FIND_INIT = 26,
       SIGN_INIT = 42, SIGN = 43, GENERATE = 59 };
enum { ARGUMENTS_BAD = 0x7, CANT_LOCK = 0xA, SESSION_COUNT = 0xB1 };

struct {
    /* told */
    _Atomic ulong_t refuse_locking;  /* C_Initialize with CKF_OS_LOCKING_OK returns CKR_CANT_LOCK */
    _Atomic ulong_t token_flags;     /* added to CK_TOKEN_INFO.flags */
    _Atomic ulong_t max_sessions;    /* CK_TOKEN_INFO.ulMaxSessionCount; 0: what the token says */
    _Atomic ulong_t session_limit;   /* C_OpenSession returns CKR_SESSION_COUNT beyond; 0: none */
    _Atomic ulong_t sign_as;         /* the key handle that C_SignInit uses in place of the one it is given */
    _Atomic ulong_t fail_function;   /* place in the function list of the function that fails next */
    _Atomic ulong_t fail_times;      /* how many of its calls */
    _Atomic ulong_t fail_with;       /* and what they return */
    _Atomic ulong_t sign_micros;     /* how much longer C_Sign takes */
    /* counted */
    _Atomic ulong_t initialized;
    _Atomic ulong_t logins;
    _Atomic ulong_t finds;
    _Atomic ulong_t signatures;
    _Atomic ulong_t sessions;
    _Atomic ulong_t inside;
    _Atomic ulong_t most_inside;
} counting;

static struct list *real, ours;

static ulong_t failing(ulong_t function) {
    if (counting.fail_function != function || !counting.fail_times) return 0;
    counting.fail_times--;
    return counting.fail_with;
}

static void go_in(void) {
    ulong_t inside = ++counting.inside, most = counting.most_inside;
    while (inside > most && !atomic_compare_exchange_weak(&counting.most_inside, &most, inside)) {}
}

static ulong_t initialize(struct initialize_args *args) {
    if (counting.refuse_locking && args && (args->flags & 2)) return CANT_LOCK;
    ulong_t rv = failing(INITIALIZE);
    if (rv) return rv;
    counting.initialized++;
    counting.sessions = 0;
    return ((ulong_t(*)(void *))real->functions[INITIALIZE])(args);
}

static ulong_t token_info(ulong_t slot, struct token_info *info) {
    ulong_t rv = failing(TOKEN_INFO);
    if (!rv) rv = ((ulong_t(*)(ulong_t, void *))real->functions[TOKEN_INFO])(slot, info);
    if (!rv) {
        info->flags |= counting.token_flags;
        if (counting.max_sessions) info->max_sessions = counting.max_sessions;
    }
    return rv;
}

static ulong_t open_session(ulong_t slot, ulong_t flags, void *app, void *notify, ulong_t *session) {
    ulong_t rv = failing(OPEN_SESSION);
    if (rv) return rv;
    if (counting.session_limit && ++counting.sessions > counting.session_limit) {
        counting.sessions--;
        return SESSION_COUNT;
    }
    return ((ulong_t(*)(ulong_t, ulong_t, void *, void *, ulong_t *))real->functions[OPEN_SESSION])(
        slot, flags, app, notify, session);
}

static ulong_t close_session(ulong_t session) {
    if (counting.session_limit) counting.sessions--;
    return ((ulong_t(*)(ulong_t))real->functions[CLOSE_SESSION])(session);
}

static ulong_t login(ulong_t session, ulong_t user, void *pin, ulong_t length) {
    counting.logins++;
    ulong_t rv = failing(LOGIN);
    if (rv) return rv;
    return ((ulong_t(*)(ulong_t, ulong_t, void *, ulong_t))real->functions[LOGIN])(session, user, pin, length);
}

static ulong_t find_init(ulong_t session, void *template, ulong_t count) {
    counting.finds++;
    ulong_t rv = failing(FIND_INIT);
    if (rv) return rv;
    return ((ulong_t(*)(ulong_t, void *, ulong_t))real->functions[FIND_INIT])(session, template, count);
}

static ulong_t sign_init(ulong_t session, void *mechanism, ulong_t key) {
    ulong_t rv = failing(SIGN_INIT);
    if (rv) return rv;
    if (counting.sign_as) key = counting.sign_as;
    return ((ulong_t(*)(ulong_t, void *, ulong_t))real->functions[SIGN_INIT])(session, mechanism, key);
}

static ulong_t sign(ulong_t session, void *data, ulong_t length, void *signature, ulong_t *signature_length) {
    go_in();
    counting.signatures++;
    struct timespec pause = {0, (long)counting.sign_micros * 1000};
    if (pause.tv_nsec) nanosleep(&pause, NULL);
    ulong_t rv = failing(SIGN);
    if (!rv)
        rv = ((ulong_t(*)(ulong_t, void *, ulong_t, void *, ulong_t *))real->functions[SIGN])(
            session, data, length, signature, signature_length);
    counting.inside--;
    return rv;
}

static ulong_t generate(ulong_t session, void *mechanism, void *public, ulong_t publics, void *private,
                        ulong_t privates, ulong_t *public_key, ulong_t *private_key) {
    ulong_t rv = ((ulong_t(*)(ulong_t, void *, void *, ulong_t, void *, ulong_t, ulong_t *, ulong_t *))
                      real->functions[GENERATE])(session, mechanism, public, publics, private, privates, public_key,
                                                 private_key);
    ulong_t late = rv ? 0 : failing(GENERATE); /* the key is made, and the answer gets lost */
    return late ? late : rv;
}

ulong_t C_GetFunctionList(struct list **list) {
    if (!list) return ARGUMENTS_BAD;
    if (!real) {
        void *library = dlopen(getenv("COUNTED_MODULE"), RTLD_NOW | RTLD_LOCAL);
        ulong_t (*get)(struct list **) = library ? dlsym(library, "C_GetFunctionList") : NULL;
        if (!get || get(&real)) return ARGUMENTS_BAD;
        ours = *real;
        ours.functions[INITIALIZE] = initialize;
        ours.functions[TOKEN_INFO] = token_info;
        ours.functions[OPEN_SESSION] = open_session;
        ours.functions[CLOSE_SESSION] = close_session;
        ours.functions[LOGIN] = login;
        ours.functions[FIND_INIT] = find_init;
        ours.functions[SIGN_INIT] = sign_init;
        ours.functions[SIGN] = sign;
        ours.functions[GENERATE] = generate;
    }
    *list = &ours;
    return 0;
}
