/* drawing.pml - how one block becomes keys (docs/protocol.md, "Allocation", "Drawing", "Expiry").
 *
 * The owner's workers claim ranges durably and hand keys out of them; the other KME draws each
 * key once, and lets expire what lies behind the owner's frontier. Either KME may crash between
 * any two steps: what is in memory is gone, what is durable stays.
 *
 * Each BUG_... switch plants one mistake; tests/repo/test_protocol_model.py wants every one found.
 */
#define G 3                             /* granules 0..G-1; a key is one granule */
#define W 2                             /* workers of the owner */
#define NONE 255

#ifdef LIVE                             /* liveness is asked after the last fault */
byte faults_left = 2;
#define MAY_FAIL (faults_left > 0)
#define FAIL faults_left--
#define IS_UNUSED_KEPT true             /* else claiming and giving back could go on for ever */
#else
#define MAY_FAIL true
#define FAIL skip
#define IS_UNUSED_KEPT false
#endif

/* Durable at the owner: first granule never claimed, first granule of each worker's open claim. */
byte mark;
byte claimed_from[W] = NONE;
bool is_gone_here;

/* Durable at the drawing KME. */
byte drawn;                             /* a bit for each granule: the ledger */
byte noted;                             /* everything below will expire */
bool is_gone_there;

/* On its way: any frontier that was true once; the newest hides nothing of the older ones. */
byte told;

/* What nobody sees but the checks. */
byte n_given[G];                        /* keys that masters were given, by granule */
byte n_delivered[G];                    /* keys that slaves were given */
byte expired;

#define MIN(a, b) ((a) < (b) -> (a) : (b))
#ifdef BUG_FRONTIER_AT_MARK
#define FRONTIER mark
#else
#define FRONTIER MIN(mark, MIN(claimed_from[0], claimed_from[1]))
#endif

inline hand_out(g) {
    n_given[g]++;
    assert(n_given[g] == 1);            /* no granule under two key_IDs */
    assert(!(expired & (1 << g)))       /* its slave still can draw it */
}

/* Claim, hand out, close; a crash in between forgets how far the claim was used. */
proctype Worker(byte me) {
    byte next = NONE, stop;
#ifdef BUG_NO_CHECK_AND_SET
    byte seen;
#endif
end:
    do
#if defined(BUG_ANSWER_BEFORE_CLAIM)
    :: d_step {                         /* used from memory, written behind the answer */
        next == NONE && mark < G ->
        next = mark;
        stop = mark + 1;
        hand_out(next)
       }
    :: d_step {
        next != NONE ->
        mark = stop;
        next = NONE;
        stop = 0
       }
#elif defined(BUG_NO_CHECK_AND_SET)
    :: atomic { next == NONE && mark < G -> seen = mark };
        d_step {
            mark = seen + 1;
            claimed_from[me] = seen;
            next = seen;
            stop = seen + 1;
            seen = 0
        }
#else
    :: atomic {
        next == NONE && claimed_from[me] == NONE && mark < G ->
        next = mark;
        if                              /* one granule or two */
        :: stop = mark + 1
        :: mark + 2 <= G -> stop = mark + 2
        fi;
        claimed_from[me] = mark;
        mark = stop
       }
#endif
#ifndef BUG_ANSWER_BEFORE_CLAIM
    :: d_step { next < stop -> hand_out(next); next++ }
    /* Close: what was not used goes back if nothing behind it was claimed, else it is burnt. */
    :: d_step {
        next != NONE && claimed_from[me] != NONE && (next == stop || !IS_UNUSED_KEPT) ->
        if
        :: mark == stop -> mark = next
        :: else
        fi;
        claimed_from[me] = NONE;
        next = NONE;
        stop = 0
       }
#endif
    /* A crash. What a dead worker had claimed is closed by the others, its own kind of burning. */
    :: d_step {
        next != NONE && MAY_FAIL ->
        FAIL;
        next = NONE;
        stop = 0
       }
#ifndef BUG_DEAD_CLAIMS_STAY
    :: d_step { next == NONE && claimed_from[me] != NONE -> claimed_from[me] = NONE }
#endif
#ifdef BUG_CLOSE_LIVE_CLAIMS
    :: d_step { next == NONE && claimed_from[1 - me] != NONE -> claimed_from[1 - me] = NONE }
#endif
    od
}

/* A request for one key that a master was given; two run at a time. */
proctype Slave() {
    byte g;
end:
    do
    :: atomic {
        if
        :: n_given[0] != 0 && !(drawn & 1) -> g = 0
        :: n_given[1] != 0 && !(drawn & 2) -> g = 1
        :: n_given[2] != 0 && !(drawn & 4) -> g = 2
        fi;
#ifndef BUG_ANSWER_BEFORE_DRAW
        drawn = drawn | (1 << g)        /* checked and written in one step, before the answer */
#endif
       }
       if
       :: d_step { true -> n_delivered[g]++; assert(n_delivered[g] == 1) }
       :: d_step { MAY_FAIL -> FAIL }   /* a crash: the key is burnt */
       fi;
#ifdef BUG_DRAW_UNDONE
       if
       :: drawn = drawn & ~(1 << g)     /* "the answer seems to be lost": let it be drawn again */
       :: true
       fi;
#endif
#ifdef BUG_ANSWER_BEFORE_DRAW
       if
       :: drawn = drawn | (1 << g)
       :: d_step { MAY_FAIL -> FAIL }
       fi;
#endif
       g = 0
    od
}

/* Heartbeats carry the frontier; each that is noted is carried out a lifetime later. */
proctype Expiry() {
end:
    do
    :: told < FRONTIER && !is_gone_here -> told = FRONTIER
    :: noted < told -> noted = told
    :: d_step {
        ((1 << noted) - 1) & ~drawn ->
        expired = expired | (((1 << noted) - 1) & ~drawn);
        drawn = drawn | ((1 << noted) - 1)
       }
    /* Blocks are destroyed when nothing of them can be given any more, each end by itself. */
    :: d_step {
        !is_gone_here && told == G && FRONTIER == G ->
        is_gone_here = true
       }
    :: d_step { !is_gone_there && drawn == (1 << G) - 1 -> is_gone_there = true }
    od
}

init {
    atomic {
        run Worker(0);
        run Worker(1);
        run Slave();
#ifndef LIVE
        run Slave();
#endif
        run Expiry()
    }
}

#ifdef LIVE
/* No block stays for ever: it is used up, or burnt, or expires, at both ends. */
ltl ends { <> (is_gone_here && is_gone_there) }
#endif
