/* restore.pml - what two KMEs agree on after one was restored (docs/protocol.md, "Restore").
 *
 * X is restored from an older copy by its operator, up to twice; it serves nothing until Y has
 * agreed. Blocks with odd numbers are X's own, X hands out keys of them; of the others Y does,
 * and X draws them. One key is one block here.
 *
 * An ask and an agreement may come late and doubled. Heartbeats have a model of their own; that
 * both ends are in step is here that Y remembers X's present nonce.
 *
 * Each BUG_... switch plants one mistake; tests/repo/test_protocol_model.py wants every one found.
 */
#define N 3                             /* block numbers 1..N */
#define N_RESTORES 2
#define BIT(n) (1 << (n))
#define IS_OF_X(n) ((n) & 1)
#define MAX(a, b) ((a) > (b) -> (a) : (b))
#define IS_RESTORING (agreed != incarnation)

#ifdef LIVE                             /* liveness is asked after the last fault */
byte faults_left = 2;
#define MAY_FAIL (faults_left > 0)
#define FAIL faults_left--
#define N_CHALLENGES 6
#else
#define N_CHALLENGES 3
#define MAY_FAIL true
#define FAIL skip
#endif

#define IDLE 0                          /* where X's question is */
#define ASKING 1
#define ANSWERING 2
#define HAS_ANSWER 3

/* Durable at X. */
typedef Store {
    byte highest, open, floor_allocate, floor_draw, nonce;
    byte blocks, usable, claimed, drawn /* a bit for each block */
};
Store x, copy;
byte incarnation, agreed;

/* Durable at Y. */
Store y;
byte heard;

/* In memory, and under way. */
byte phase, challenge, answer_highest, answer_incarnation;
byte challenges;                        /* Y's, a bit for each */
byte late_challenge, late_highest, late_incarnation;
#ifdef BUG_STALE_AGREEMENT
byte old_highest, old_incarnation;      /* an agreement that was on its way for long */
#endif

/* What nobody sees but the checks. */
bool x_leads;
byte restores_left = N_RESTORES;
byte n_challenges;
byte formed;                            /* numbers under which a content was proposed */
byte n_given[N + 1], n_delivered[N + 1];

inline propose(leader) {
    leader.highest++;
    leader.open = leader.highest;
    assert(!(formed & BIT(leader.open)));           /* no number has two contents */
    formed = formed | BIT(leader.open)
}

inline decide(leader, follower) {
    follower.highest = leader.open;
    follower.blocks = follower.blocks | BIT(leader.open)
}

inline settle(leader, follower) {
    leader.blocks = leader.blocks | BIT(leader.open);
    leader.usable = leader.usable | BIT(leader.open);
    follower.usable = follower.usable | BIT(leader.open);
    leader.open = 0
}

proctype Pairing() {
end:
    do
    :: d_step { x_leads && !IS_RESTORING && x.open == 0 && x.highest < N -> propose(x) }
    :: d_step { x_leads && !IS_RESTORING && x.open > y.highest -> decide(x, y) }
    :: d_step {
        x_leads && !IS_RESTORING && x.open != 0 && x.open == y.highest &&
        (y.blocks & BIT(x.open)) -> settle(x, y)
       }
    :: d_step { !x_leads && y.open == 0 && y.highest < N -> propose(y) }
    :: d_step { !x_leads && !IS_RESTORING && y.open > x.highest -> decide(y, x) }
    :: d_step {
        !x_leads && !IS_RESTORING && y.open != 0 && y.open == x.highest &&
        (x.blocks & BIT(y.open)) -> settle(y, x)
       }
    od
}

/* Keys are handed out and drawn; a durable write comes before each answer. */
#define KEYS(n) \
    :: d_step { \
        n > x.floor_allocate && !IS_RESTORING && IS_OF_X(n) && (x.usable & ~x.claimed & BIT(n)) -> \
        x.claimed = x.claimed | BIT(n); \
        n_given[n]++; \
        assert(n_given[n] == 1);                /* no granule under two key_IDs */ \
        assert(y.blocks & BIT(n))               /* its slave can draw it */ \
       } \
    :: d_step { \
        n > y.floor_allocate && !IS_OF_X(n) && (y.usable & ~y.claimed & BIT(n)) -> \
        y.claimed = y.claimed | BIT(n); \
        n_given[n]++; \
        assert(n_given[n] == 1); \
        assert(IS_RESTORING || ((x.blocks & BIT(n)) && n > x.floor_draw)) \
       } \
    :: d_step { \
        n > x.floor_draw && !IS_RESTORING && !IS_OF_X(n) && n_given[n] != 0 && \
        (x.blocks & ~x.drawn & BIT(n)) -> \
        x.drawn = x.drawn | BIT(n); \
        n_delivered[n]++; \
        assert(n_delivered[n] == 1)             /* no key is drawn twice */ \
       }

proctype Keys() {
end:
    do
    KEYS(1)
    KEYS(2)
    KEYS(3)
    od
}

/* Y: never allocate again what X may have lost; X's next heartbeat follows this nonce. */
inline accept(their_highest, their_nonce) {
    assert(IS_RESTORING);                           /* nothing of the past is accepted */
    challenges = 0;
    y.highest = MAX(y.highest, their_highest);
#ifndef BUG_NUMBER_AGAIN
    y.highest++;                                    /* X may have proposed one more, still unseen */
#endif
    y.open = 0;
#ifndef BUG_OTHER_SIDE_ALLOCATES
    y.floor_allocate = y.highest;
#endif
    heard = their_nonce
}

/* X asks until it has an agreement about its present restore, and writes it. */
proctype Restored() {
end:
    do
    :: d_step { IS_RESTORING && phase == IDLE -> phase = ASKING }
    :: atomic {                                     /* Y wants to know that this is not the past */
        phase == ASKING ->
        if
        :: n_challenges < N_CHALLENGES ->
            n_challenges++;
            challenges = challenges | BIT(n_challenges);
            challenge = n_challenges;
            phase = ANSWERING
        :: n_challenges == N_CHALLENGES             /* the model's end, not the protocol's */
        fi
       }
    :: d_step {
        phase == ANSWERING && (challenges & BIT(challenge)) ->
        accept(x.highest, incarnation);
        answer_highest = y.highest;
        answer_incarnation = incarnation;
        phase = HAS_ANSWER
       }
    :: d_step { phase == ANSWERING && !(challenges & BIT(challenge)) -> phase = IDLE }
    :: d_step {
        phase == HAS_ANSWER && answer_incarnation == incarnation ->
#ifndef BUG_OLD_FLOORS
        x.floor_allocate = MAX(x.highest, answer_highest);
        x.floor_draw = x.floor_allocate;
#endif
        x.highest = MAX(x.highest, answer_highest);
        x.open = 0;
        x.nonce = incarnation;
        agreed = incarnation;
        challenge = 0;
        answer_highest = 0;
        answer_incarnation = 0;
        phase = IDLE
       }
#ifdef BUG_STALE_AGREEMENT
    :: d_step {
        IS_RESTORING && old_incarnation != 0 ->
        x.floor_allocate = MAX(x.highest, old_highest);
        x.floor_draw = x.floor_allocate;
        x.highest = x.floor_allocate;
        x.open = 0;
        x.nonce = incarnation;
        heard = incarnation;
        agreed = incarnation;
        phase = IDLE
       }
#endif
    /* No answer in time: the question comes late, or the answer does. */
    :: atomic {
        phase == ANSWERING && MAY_FAIL ->
        FAIL;
        if
        :: late_challenge = challenge; late_highest = x.highest; late_incarnation = incarnation
        :: skip
        fi;
        phase = IDLE
       }
    :: d_step {
        phase == HAS_ANSWER && MAY_FAIL ->
        FAIL;
#ifdef BUG_STALE_AGREEMENT
        old_highest = answer_highest;
        old_incarnation = answer_incarnation;
#endif
        phase = IDLE
       }
    od
}

proctype Network() {
end:
    do
#ifdef BUG_NO_CHALLENGE
    :: d_step { late_challenge != 0 -> accept(late_highest, late_incarnation) }
#else
    :: d_step {
        late_challenge != 0 && (challenges & BIT(late_challenge)) ->
        accept(late_highest, late_incarnation)
       }
#endif
    :: d_step { challenges != 0 && MAY_FAIL -> FAIL; challenges = 0 }       /* Y restarts */
    :: d_step { !IS_RESTORING -> assert(heard == x.nonce) }                 /* a heartbeat */
    od
}

inline assign(to, from) {
    to.highest = from.highest;
    to.open = from.open;
    to.floor_allocate = from.floor_allocate;
    to.floor_draw = from.floor_draw;
    to.nonce = from.nonce;
    to.blocks = from.blocks;
    to.usable = from.usable;
    to.claimed = from.claimed;
    to.drawn = from.drawn
}

/* X is backed up; later it is stopped, restored, given a fresh incarnation, and started. */
proctype Operator() {
end:
    do
    :: d_step { restores_left > 0 && !IS_RESTORING -> assign(copy, x) }
    :: d_step {
        restores_left > 0 ->
        restores_left--;
        assign(x, copy);
        incarnation++;
        phase = IDLE
       }
    od
}

init {
    atomic {
        if
        :: x_leads = true
        :: x_leads = false
        fi;
        run Pairing();
#ifndef LIVE
        run Keys();
#endif
        run Restored();
        run Network();
        run Operator()
    }
}

#ifdef LIVE
/* Whatever is late or lost, each restore is agreed on in the end. */
ltl agrees { [] <> (!IS_RESTORING) }
#endif
