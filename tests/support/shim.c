/* A Cryptoki module in front of another one, which counts calls and misbehaves as hardware does.
 *
 * The module behind it is named by the environment variable SHIM_MODULE when it is first used.  From then on a thread
 * listens on the Unix socket "shim-<pid>.sock" in the folder that SHIM_FOLDER names; each line that it gets is a
 * command, answered by a line.  tests/support/shim.py has the commands.
 *
 * Calls that go through hold a lock for reading; what happens to the token behind its users' backs (a removal, a
 * stolen session) holds it for writing, so that the module behind is never pulled from under a call.  A call that
 * hangs does so before it takes the lock. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long ulong_t;

struct list {
    unsigned char version[2];
    void *functions[68];
};

struct token_info {
    char label[32];
    unsigned char texts[64];
    ulong_t flags, max_sessions, sessions, max_rw_sessions;
    unsigned char rest[80];
};

struct initialize_args {
    void *mutex_functions[4];
    ulong_t flags;
    void *reserved;
};

enum { INITIALIZE = 0, FINALIZE = 1, SLOT_LIST = 4, TOKEN_INFO = 6, OPEN_SESSION = 12,
       CLOSE_SESSION = 13, CLOSE_ALL = 14, SESSION_INFO = 15, LOGIN = 18, LOGOUT = 19, COPY = 21, DESTROY = 22,
       ATTRIBUTES = 24, CHANGE = 25, FIND_INIT = 26, FIND = 27, FIND_FINAL = 28, SIGN_INIT = 42, SIGN = 43,
       GENERATE_KEY = 58, GENERATE = 59, WRAP = 60, FUNCTIONS = 68 };
enum { OK = 0, ARGUMENTS_BAD = 0x7, CANT_LOCK = 0xA, DEVICE_REMOVED = 0x32, SESSION_COUNT = 0xB1,
       TOKEN_NOT_PRESENT = 0xE0 };
enum { MOST_SESSIONS = 4096, MOST_TOKENS = 8, OS_LOCKING = 2 };

static struct rule {
    ulong_t after;  /* calls that pass first */
    ulong_t times;  /* calls that fail then */
    ulong_t rv;     /* what they return */
    ulong_t done;   /* whether the work is done before the failure is told */
    ulong_t micros; /* how much longer each call takes */
    ulong_t hangs;  /* calls that hang until they are released */
    ulong_t count;
    ulong_t inside, most_inside;
} rules[FUNCTIONS];

static struct { ulong_t handle, slot; } sessions[MOST_SESSIONS];
static ulong_t session_count;
static ulong_t removed[MOST_TOKENS], removed_count;
static ulong_t refuse_locking, token_flags, told_sessions, session_limit, sign_as, last_key, corrupt, hanging, wedged;

static struct list *real, ours;
static int finalized = -1; /* the file "finalized" in the folder, a line for each C_Finalize */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t passage = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;

#define REAL(place, ...) (((ulong_t (*)(__VA_ARGS__))real->functions[place]))

static int is_removed(ulong_t slot) {
    for (ulong_t at = 0; at < removed_count; at++)
        if (removed[at] == slot) return 1;
    return 0;
}

static ulong_t slot_of(ulong_t session) {
    for (ulong_t at = 0; at < session_count; at++)
        if (sessions[at].handle == session) return sessions[at].slot;
    return ~0UL;
}

static void forget(ulong_t session) {
    for (ulong_t at = 0; at < session_count; at++)
        if (sessions[at].handle == session) {
            sessions[at] = sessions[--session_count];
            return;
        }
}

/* The failure that a call is to return without being made, or OK; go_out must follow. */
static ulong_t go_in(int function) {
    struct rule *rule = &rules[function];
    ulong_t rv = OK;
    pthread_mutex_lock(&mutex);
    rule->count++;
    if (++rule->inside > rule->most_inside) rule->most_inside = rule->inside;
    if (rule->hangs && !rule->after) {
        hanging++;
        while (rule->hangs) pthread_cond_wait(&released, &mutex);
        hanging--;
    }
    struct timespec pause = {(long)(rule->micros / 1000000), (long)(rule->micros % 1000000) * 1000};
    if (wedged && function != FINALIZE && function != INITIALIZE) {
        rv = wedged;
    } else if (rule->times) {
        if (rule->after) {
            rule->after--;
        } else if (!rule->done) {
            rule->times--;
            rv = rule->rv;
        }
    }
    pthread_mutex_unlock(&mutex);
    if (pause.tv_sec || pause.tv_nsec) nanosleep(&pause, NULL);
    pthread_rwlock_rdlock(&passage);
    return rv;
}

/* What the call returns: what it did, unless its answer is to get lost. */
static ulong_t go_out(int function, ulong_t rv) {
    struct rule *rule = &rules[function];
    pthread_rwlock_unlock(&passage);
    pthread_mutex_lock(&mutex);
    rule->inside--;
    if (rv == OK && rule->times && rule->done && !rule->after) {
        rule->times--;
        rv = rule->rv;
    }
    pthread_mutex_unlock(&mutex);
    return rv;
}

static ulong_t of_slot(int function, ulong_t slot) {
    ulong_t rv = go_in(function);
    if (rv) return rv;
    pthread_mutex_lock(&mutex);
    if (is_removed(slot)) rv = TOKEN_NOT_PRESENT;
    pthread_mutex_unlock(&mutex);
    return rv;
}

static ulong_t of_session(int function, ulong_t session) {
    ulong_t rv = go_in(function);
    if (rv) return rv;
    pthread_mutex_lock(&mutex);
    if (is_removed(slot_of(session))) rv = DEVICE_REMOVED;
    pthread_mutex_unlock(&mutex);
    return rv;
}

static ulong_t initialize(struct initialize_args *args) {
    if (refuse_locking && args && (args->flags & OS_LOCKING)) return CANT_LOCK;
    ulong_t rv = go_in(INITIALIZE);
    if (!rv) rv = REAL(INITIALIZE, void *)(args);
    return go_out(INITIALIZE, rv);
}

static ulong_t finalize(void *reserved) {
    ulong_t rv = go_in(FINALIZE);
    if (!rv) {
        rv = REAL(FINALIZE, void *)(reserved);
        pthread_mutex_lock(&mutex);
        session_count = 0;
        wedged = 0;
        pthread_mutex_unlock(&mutex);
        if (finalized >= 0) dprintf(finalized, "%d\n", (int)getpid());
    }
    return go_out(FINALIZE, rv);
}

static ulong_t slot_list(unsigned char present, ulong_t *slots, ulong_t *count) {
    ulong_t found[64], found_count = 64;
    ulong_t rv = go_in(SLOT_LIST);
    if (!rv) rv = REAL(SLOT_LIST, unsigned char, ulong_t *, ulong_t *)(present, found, &found_count);
    if (!rv) {
        ulong_t kept = 0;
        pthread_mutex_lock(&mutex);
        for (ulong_t at = 0; at < found_count; at++)
            if (!present || !is_removed(found[at])) found[kept++] = found[at];
        pthread_mutex_unlock(&mutex);
        if (slots) memcpy(slots, found, kept * sizeof *slots);
        *count = kept;
    }
    return go_out(SLOT_LIST, rv);
}

static ulong_t get_token_info(ulong_t slot, struct token_info *info) {
    ulong_t rv = of_slot(TOKEN_INFO, slot);
    if (!rv) rv = REAL(TOKEN_INFO, ulong_t, void *)(slot, info);
    if (!rv) {
        info->flags |= token_flags;
        if (told_sessions) info->max_sessions = info->max_rw_sessions = told_sessions;
    }
    return go_out(TOKEN_INFO, rv);
}

static ulong_t open_session(ulong_t slot, ulong_t flags, void *app, void *notify, ulong_t *session) {
    ulong_t rv = of_slot(OPEN_SESSION, slot);
    if (!rv) {
        pthread_mutex_lock(&mutex);
        if (session_count == MOST_SESSIONS || (session_limit && session_count >= session_limit)) rv = SESSION_COUNT;
        if (!rv) {
            rv = REAL(OPEN_SESSION, ulong_t, ulong_t, void *, void *, ulong_t *)(slot, flags, app, notify, session);
            if (!rv) {
                sessions[session_count].handle = *session;
                sessions[session_count++].slot = slot;
            }
        }
        pthread_mutex_unlock(&mutex);
    }
    return go_out(OPEN_SESSION, rv);
}

static ulong_t close_session(ulong_t session) {
    ulong_t rv = of_session(CLOSE_SESSION, session);
    if (!rv) rv = REAL(CLOSE_SESSION, ulong_t)(session);
    pthread_mutex_lock(&mutex);
    forget(session);
    pthread_mutex_unlock(&mutex);
    return go_out(CLOSE_SESSION, rv);
}

static ulong_t session_info(ulong_t session, void *info) {
    ulong_t rv = of_session(SESSION_INFO, session);
    if (!rv) rv = REAL(SESSION_INFO, ulong_t, void *)(session, info);
    return go_out(SESSION_INFO, rv);
}

static ulong_t login(ulong_t session, ulong_t user, void *pin, ulong_t length) {
    ulong_t rv = of_session(LOGIN, session);
    if (!rv) rv = REAL(LOGIN, ulong_t, ulong_t, void *, ulong_t)(session, user, pin, length);
    return go_out(LOGIN, rv);
}

static ulong_t destroy(ulong_t session, ulong_t object) {
    ulong_t rv = of_session(DESTROY, session);
    if (!rv) rv = REAL(DESTROY, ulong_t, ulong_t)(session, object);
    return go_out(DESTROY, rv);
}

static ulong_t attributes(ulong_t session, ulong_t object, void *template, ulong_t count) {
    ulong_t rv = of_session(ATTRIBUTES, session);
    if (!rv) rv = REAL(ATTRIBUTES, ulong_t, ulong_t, void *, ulong_t)(session, object, template, count);
    return go_out(ATTRIBUTES, rv);
}

static ulong_t find_init(ulong_t session, void *template, ulong_t count) {
    ulong_t rv = of_session(FIND_INIT, session);
    if (!rv) rv = REAL(FIND_INIT, ulong_t, void *, ulong_t)(session, template, count);
    return go_out(FIND_INIT, rv);
}

static ulong_t find(ulong_t session, ulong_t *objects, ulong_t most, ulong_t *count) {
    ulong_t rv = of_session(FIND, session);
    if (!rv) rv = REAL(FIND, ulong_t, ulong_t *, ulong_t, ulong_t *)(session, objects, most, count);
    return go_out(FIND, rv);
}

static ulong_t find_final(ulong_t session) {
    ulong_t rv = of_session(FIND_FINAL, session);
    if (!rv) rv = REAL(FIND_FINAL, ulong_t)(session);
    return go_out(FIND_FINAL, rv);
}

static ulong_t sign_init(ulong_t session, void *mechanism, ulong_t key) {
    ulong_t rv = of_session(SIGN_INIT, session);
    if (!rv) {
        if (sign_as) key = sign_as;
        last_key = key;
        rv = REAL(SIGN_INIT, ulong_t, void *, ulong_t)(session, mechanism, key);
    }
    return go_out(SIGN_INIT, rv);
}

static ulong_t sign(ulong_t session, void *data, ulong_t length, unsigned char *signature, ulong_t *signature_length) {
    ulong_t rv = of_session(SIGN, session);
    if (!rv)
        rv = REAL(SIGN, ulong_t, void *, ulong_t, void *, ulong_t *)(session, data, length, signature,
                                                                     signature_length);
    pthread_mutex_lock(&mutex);
    if (!rv && corrupt) {
        corrupt--;
        signature[*signature_length - 1] ^= 1;
    }
    pthread_mutex_unlock(&mutex);
    return go_out(SIGN, rv);
}

static ulong_t generate(ulong_t session, void *mechanism, void *public, ulong_t publics, void *private,
                        ulong_t privates, ulong_t *public_key, ulong_t *private_key) {
    ulong_t rv = of_session(GENERATE, session);
    if (!rv)
        rv = REAL(GENERATE, ulong_t, void *, void *, ulong_t, void *, ulong_t, ulong_t *, ulong_t *)(
            session, mechanism, public, publics, private, privates, public_key, private_key);
    return go_out(GENERATE, rv);
}

static ulong_t copy(ulong_t session, ulong_t object, void *template, ulong_t count, ulong_t *made) {
    ulong_t rv = of_session(COPY, session);
    if (!rv) rv = REAL(COPY, ulong_t, ulong_t, void *, ulong_t, ulong_t *)(session, object, template, count, made);
    return go_out(COPY, rv);
}

static ulong_t change(ulong_t session, ulong_t object, void *template, ulong_t count) {
    ulong_t rv = of_session(CHANGE, session);
    if (!rv) rv = REAL(CHANGE, ulong_t, ulong_t, void *, ulong_t)(session, object, template, count);
    return go_out(CHANGE, rv);
}

static ulong_t generate_key(ulong_t session, void *mechanism, void *template, ulong_t count, ulong_t *made) {
    ulong_t rv = of_session(GENERATE_KEY, session);
    if (!rv)
        rv = REAL(GENERATE_KEY, ulong_t, void *, void *, ulong_t, ulong_t *)(session, mechanism, template, count, made);
    return go_out(GENERATE_KEY, rv);
}

static ulong_t wrap(ulong_t session, void *mechanism, ulong_t key, ulong_t object, void *wrapped, ulong_t *length) {
    ulong_t rv = of_session(WRAP, session);
    if (!rv)
        rv = REAL(WRAP, ulong_t, void *, ulong_t, ulong_t, void *, ulong_t *)(session, mechanism, key, object, wrapped,
                                                                              length);
    return go_out(WRAP, rv);
}

/* -- commands ------------------------------------------------------------------------------------------------ */

static ulong_t slot_named(const char *label) {
    ulong_t found[64], count = 64;
    if (REAL(SLOT_LIST, unsigned char, ulong_t *, ulong_t *)(1, found, &count)) return ~0UL;
    for (ulong_t at = 0; at < count; at++) {
        struct token_info info;
        if (REAL(TOKEN_INFO, ulong_t, void *)(found[at], &info)) continue;
        if (!strncmp(info.label, label, strlen(label)) && (strlen(label) == 32 || info.label[strlen(label)] == ' '))
            return found[at];
    }
    return ~0UL;
}

/* Close the sessions of a slot behind their users' backs, who learn of it when they use them. */
static void steal(ulong_t slot, ulong_t most) {
    for (ulong_t at = session_count; at-- && most;)
        if (sessions[at].slot == slot) {
            REAL(CLOSE_SESSION, ulong_t)(sessions[at].handle);
            most--;
        }
}

static void set(const char *name, ulong_t value) {
    static const struct { const char *name; ulong_t *at; } told[] = {
        {"refuse_locking", &refuse_locking}, {"token_flags", &token_flags}, {"told_sessions", &told_sessions},
        {"session_limit", &session_limit}, {"sign_as", &sign_as}, {"corrupt", &corrupt}, {"wedged", &wedged}};
    for (size_t at = 0; at < sizeof told / sizeof *told; at++)
        if (!strcmp(told[at].name, name)) *told[at].at = value;
}

static ulong_t obey(const char *line) {
    char word[32] = "", name[64] = "";
    ulong_t a = 0, b = 0, c = 0, d = 0, answer = 0;
    sscanf(line, "%31s", word);
    pthread_rwlock_wrlock(&passage);
    pthread_mutex_lock(&mutex);
    if (!strcmp(word, "fail") && sscanf(line, "%*s %lu %lu %lu %lu %63s", &a, &b, &c, &d, name) == 5) {
        rules[a % FUNCTIONS].rv = b;
        rules[a % FUNCTIONS].times = c;
        rules[a % FUNCTIONS].after = d;
        rules[a % FUNCTIONS].done = !strcmp(name, "late");
    } else if (!strcmp(word, "delay") && sscanf(line, "%*s %lu %lu", &a, &b) == 2) {
        rules[a % FUNCTIONS].micros = b;
    } else if (!strcmp(word, "hang") && sscanf(line, "%*s %lu", &a) == 1) {
        rules[a % FUNCTIONS].hangs = 1;
    } else if (!strcmp(word, "release")) {
        for (a = 0; a < FUNCTIONS; a++) rules[a].hangs = 0;
        pthread_cond_broadcast(&released);
    } else if (!strcmp(word, "count") && sscanf(line, "%*s %lu", &a) == 1) {
        answer = rules[a % FUNCTIONS].count;
    } else if (!strcmp(word, "most_inside") && sscanf(line, "%*s %lu", &a) == 1) {
        answer = rules[a % FUNCTIONS].most_inside;
    } else if (!strcmp(word, "failing")) {
        for (a = 0; a < FUNCTIONS; a++) answer += rules[a].times;
    } else if (!strcmp(word, "hanging")) {
        answer = hanging;
    } else if (!strcmp(word, "sessions")) {
        answer = session_count;
    } else if (!strcmp(word, "last_key")) {
        answer = last_key;
    } else if (!strcmp(word, "set") && sscanf(line, "%*s %63s %lu", name, &a) == 2) {
        set(name, a);
    } else if (!strcmp(word, "steal") && sscanf(line, "%*s %lu %63s", &a, name) == 2) {
        steal(slot_named(name), a);
    } else if (!strcmp(word, "logout") && sscanf(line, "%*s %63s", name) == 1) {
        ulong_t slot = slot_named(name);
        for (a = 0; a < session_count; a++)
            if (sessions[a].slot == slot && !REAL(LOGOUT, ulong_t)(sessions[a].handle)) break;
    } else if (!strcmp(word, "remove") && sscanf(line, "%*s %63s", name) == 1 && removed_count < MOST_TOKENS) {
        ulong_t slot = slot_named(name);
        REAL(CLOSE_ALL, ulong_t)(slot);
        removed[removed_count++] = slot;
    } else if (!strcmp(word, "restore")) {
        removed_count = 0;
    } else {
        answer = ~0UL;
    }
    pthread_mutex_unlock(&mutex);
    pthread_rwlock_unlock(&passage);
    return answer;
}

static void *listen_to(void *socket_at) {
    int listening = *(int *)socket_at;
    for (;;) {
        int connection = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0) continue;
        char line[256];
        FILE *stream = fdopen(connection, "r");
        while (stream && fgets(line, sizeof line, stream)) dprintf(connection, "%lu\n", obey(line));
        if (stream) fclose(stream);
    }
    return NULL;
}

static int start_listening(const char *folder) {
    static int listening;
    char path[128];
    snprintf(path, sizeof path, "%s/finalized", folder);
    finalized = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    pthread_t thread;
    snprintf(address.sun_path, sizeof address.sun_path, "%s/shim-%d.sock", folder, (int)getpid());
    unlink(address.sun_path);
    listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return listening >= 0 && !bind(listening, (struct sockaddr *)&address, sizeof address) && !listen(listening, 8) &&
           !pthread_create(&thread, NULL, listen_to, &listening) && !pthread_detach(thread);
}

ulong_t C_GetFunctionList(struct list **list) {
    if (!list) return ARGUMENTS_BAD;
    if (!real) {
        void *library = dlopen(getenv("SHIM_MODULE"), RTLD_NOW | RTLD_LOCAL);
        ulong_t (*get)(struct list **) = library ? dlsym(library, "C_GetFunctionList") : NULL;
        if (!get || get(&real) || !start_listening(getenv("SHIM_FOLDER"))) return ARGUMENTS_BAD;
        ours = *real;
        ours.functions[INITIALIZE] = initialize;
        ours.functions[FINALIZE] = finalize;
        ours.functions[SLOT_LIST] = slot_list;
        ours.functions[TOKEN_INFO] = get_token_info;
        ours.functions[OPEN_SESSION] = open_session;
        ours.functions[CLOSE_SESSION] = close_session;
        ours.functions[SESSION_INFO] = session_info;
        ours.functions[LOGIN] = login;
        ours.functions[COPY] = copy;
        ours.functions[DESTROY] = destroy;
        ours.functions[ATTRIBUTES] = attributes;
        ours.functions[CHANGE] = change;
        ours.functions[FIND_INIT] = find_init;
        ours.functions[FIND] = find;
        ours.functions[FIND_FINAL] = find_final;
        ours.functions[SIGN_INIT] = sign_init;
        ours.functions[SIGN] = sign;
        ours.functions[GENERATE_KEY] = generate_key;
        ours.functions[GENERATE] = generate;
        ours.functions[WRAP] = wrap;
    }
    *list = &ours;
    return OK;
}
