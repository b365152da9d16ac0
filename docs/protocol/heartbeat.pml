/* heartbeat.pml - how a roll-back is seen (docs/protocol.md, "Heartbeats and roll-backs").
 *
 * One direction: a KME sends heartbeats, its peer judges them. The sender's store may be replaced
 * by an older copy of itself at any time, without anybody saying so. Each nonce is durable before
 * it is sent and repeated until it is accepted; a claim is used only after a heartbeat with a
 * nonce younger than the claim was accepted. So an older copy that lacks the claim lacks the
 * nonce that the peer heard, too.
 *
 * Two processes of the sender may speak at once: one that was deposed, but is only paused.
 * Messages may come late and doubled.
 *
 * Each BUG_... switch plants one mistake; tests/repo/test_protocol_model.py wants every one found.
 */
#ifdef LIVE
#define N_NONCES 3
#else
#define N_NONCES 4
#endif
#define N_CHALLENGES 2
#define N_CLAIMS 1
#define N_RESTORES 1
#define SPEAKERS 2

#define IDLE 0                          /* where a speaker is */
#define SENDING 1
#define CHALLENGED 2
#define ACCEPTED 3
#define ROLLED_BACK 4
#define NOT_HEARD 5

#ifdef LIVE                             /* liveness is asked after the last fault */
byte faults_left = 2;
#define MAY_FAIL (faults_left > 0)
#define FAIL faults_left--
#else
#define MAY_FAIL true
#define FAIL skip
#endif

/* Durable at the sender; 0 is no nonce. */
byte pending, acknowledged, mark;

/* An older copy of it. */
byte old_pending, old_acknowledged, old_mark;
byte restores_left = N_RESTORES;

/* In the sender's memory. */
byte phase[SPEAKERS], nonce[SPEAKERS], known[SPEAKERS], challenge[SPEAKERS];
byte covers[SPEAKERS];                  /* the claim that may be used once it is accepted */
byte waiting;                           /* the claim that waits for a heartbeat, + 1 */

/* Durable at the receiver, and in its memory. */
byte heard;
byte challenges;

/* A message that its sender gave up on. */
byte late_nonce, late_known, late_challenge;

/* What nobody sees but the checks. */
byte n_nonces, n_challenges;
byte n_given[N_CLAIMS];
bool was_restored;

/* The receiver judges; `out` is one of CHALLENGED, ACCEPTED, ROLLED_BACK, NOT_HEARD. */
inline judge(n, k, c, out, given_challenge) {
    if
    :: heard == n || heard == k ->
        heard = n;
#ifndef BUG_CHALLENGES_STAY
        challenges = 0;
#endif
        out = ACCEPTED
    :: else ->
        if
#ifdef BUG_NO_CHALLENGE
        :: true ->
            assert(was_restored);       /* no roll-back is imagined */
            out = ROLLED_BACK
#else
        :: c != 0 && (challenges & (1 << c)) ->
            challenges = challenges & ~(1 << c);
            assert(was_restored);       /* no roll-back is imagined */
            out = ROLLED_BACK
        :: !(c != 0 && (challenges & (1 << c))) && n_challenges < N_CHALLENGES ->
            n_challenges++;
            challenges = challenges | (1 << n_challenges);
            given_challenge = n_challenges;
            out = CHALLENGED
        :: !(c != 0 && (challenges & (1 << c))) && n_challenges == N_CHALLENGES ->
            out = NOT_HEARD             /* the model's end, not the protocol's */
#endif
        fi
    fi
}

inline forget(me) {
    phase[me] = IDLE;
    nonce[me] = 0;
    known[me] = 0;
    challenge[me] = 0;
    covers[me] = 0
}

/* Write that a heartbeat begins; a fresh nonce unless one is pending. */
inline begin(me) {
    if
    :: pending == 0 ->
        n_nonces++;
        pending = n_nonces;
        covers[me] = waiting
    :: else ->
#ifdef BUG_OLD_NONCE_COVERS
        covers[me] = waiting
#else
        covers[me] = 0
#endif
    fi;
    nonce[me] = pending;
    known[me] = acknowledged;
    phase[me] = SENDING
}

proctype Speaker(byte me) {
end:
    do
    :: d_step {
        phase[me] == IDLE && (pending != 0 || n_nonces < N_NONCES) ->
        begin(me)
       }
    /* It arrives; between this and the next step lies any time. */
    :: atomic {
        phase[me] == SENDING ->
        judge(nonce[me], known[me], challenge[me], phase[me], challenge[me])
       }
    /* Nothing but a fresh reading answers a challenge. */
    :: d_step {
        phase[me] == CHALLENGED ->
        if
        :: pending != 0 ->
            nonce[me] = pending;
            known[me] = acknowledged;
            covers[me] = 0;
            phase[me] = SENDING
        :: else -> forget(me)           /* another process speaks, too */
        fi
       }
    :: d_step {
        phase[me] == ACCEPTED ->
        if
        :: pending == nonce[me] -> acknowledged = pending; pending = 0
        :: else
        fi;
        if
        :: covers[me] != 0 && covers[me] == waiting ->
            n_given[waiting - 1]++;
            assert(n_given[waiting - 1] == 1);      /* no roll-back is unseen */
            waiting = 0
        :: else
        fi;
        forget(me)
       }
    :: d_step { phase[me] == NOT_HEARD -> forget(me) }
    /* No answer in time: the message is lost, or comes late. */
    :: atomic {
        phase[me] == SENDING && MAY_FAIL ->
        FAIL;
        if
        :: late_nonce = nonce[me]; late_known = known[me]; late_challenge = challenge[me]
        :: skip
        fi;
        forget(me)
       }
    /* It arrived, and the answer is lost. */
    :: d_step {
        phase[me] == ACCEPTED && MAY_FAIL ->
        FAIL;
        forget(me)
       }
    od
}

/* Claims ranges, one by one, durably; they are used when a heartbeat covers them. */
proctype Claimer() {
end:
    do
    :: d_step {
        waiting == 0 && mark < N_CLAIMS ->
        mark++;
        waiting = mark
       }
    od
}

proctype Network() {
    byte unheard, none;
end:
    do
    :: atomic {
        late_nonce != 0 ->
        judge(late_nonce, late_known, late_challenge, unheard, none);
        unheard = 0;
        none = 0
       }
    :: d_step { challenges != 0 && MAY_FAIL -> FAIL; challenges = 0 }     /* the receiver restarts */
    od
}

#ifndef LIVE
/* Copy the store; later put the copy in its place and start again. */
proctype Fate() {
end:
    do
    :: d_step {
        restores_left > 0 ->
        old_pending = pending;
        old_acknowledged = acknowledged;
        old_mark = mark
       }
    :: d_step {
        restores_left > 0 ->
        restores_left--;
        was_restored = true;
        pending = old_pending;
        acknowledged = old_acknowledged;
        mark = old_mark;
        waiting = 0;
        forget(0);
        forget(1)
       }
    od
}
#endif

init {
    atomic {
        run Speaker(0);
        run Speaker(1);
        run Claimer();
        run Network();
#ifndef LIVE
        run Fate()
#endif
    }
}

#ifdef LIVE
/* Whatever was late, lost or paused, heartbeats are accepted again. */
ltl beats { <> (acknowledged == N_NONCES) }
#endif
