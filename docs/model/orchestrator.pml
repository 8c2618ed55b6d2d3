/* The protocol of admission and delivery, exhaustively: election, the tick, claim, extend, ack, nack,
 * lease expiry, reap. README.md says which statement of which file each step stands for.
 *
 * PostgreSQL as it is modelled here
 * - A statement sees what was committed when it began, and what its own transaction wrote. Here: one
 *   atomic step reads the global variables, which hold committed state only.
 * - What a transaction writes is seen by nobody until it commits, then all at once. Here: writes are
 *   kept in the process and applied in one atomic step at its COMMIT; an abort forgets them.
 * - A row that a transaction wrote or locked belongs to it until its end. Here: the `…_locked` variables.
 *   Who meets such a row waits and then looks at that row again (READ COMMITTED re-checks this row
 *   against the condition, and nothing else that the statement has read), or passes over it (SKIP LOCKED).
 * - A session ends whenever the server or the network likes: its transaction aborts, its locks are free.
 *   Its process learns of it with its next statement. Between any two steps any process may stop for as
 *   long as it likes: that is what an interleaving is.
 *
 * Bounds: LEADERS, WORKERS, TASKS, ATTEMPTS, TERMS (elections), LOSSES (sessions or locks lost). One
 * org, whose burst_max is CAP until an operator sets it to 1 at some moment.
 */

#ifndef LEADERS
#define LEADERS 2
#endif
#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef TASKS
#define TASKS 2
#endif
#ifndef ATTEMPTS
#define ATTEMPTS 2
#endif
#ifndef TERMS
#define TERMS 3
#endif
#ifndef LOSSES
#define LOSSES 2
#endif
#ifndef CAP
#define CAP 2
#endif

#define NOBODY 255
/* Who may hold a row: leaders first, then workers, then the operator. */
#define OPERATOR (LEADERS + WORKERS)
#define FREE(row, who) ((row) == NOBODY || (row) == (who))

/* The tables, as committed ------------------------------------------------------------------------ */

/* orchestrator_lock and the advisory lock beside it. A term is never drawn twice (gen_random_uuid). */
byte advisory = NOBODY, fence = NOBODY;
byte epoch, term;
/* staging_queue, task_queue, and the final row of task_attempt: one bit each, so that a task could be
 * in two places, or in none, if a step were wrong. */
bit staged[TASKS], queued[TASKS], ended[TASKS];
byte staged_locked[TASKS], queued_locked[TASKS];
/* What the reference of a task carries: how often it was claimed, and by which claim it is held now. */
byte attempt[TASKS], claim[TASKS];
/* Which admission of the task this is: with it, the dispatch key is unique. */
byte admission[TASKS];
/* lease: of the claim that holds the task. */
mtype = { NONE, VALID, EXPIRED };
mtype lease[TASKS];
byte lease_of[TASKS], lease_locked[TASKS];
/* task_attempt: removals from the task queue, a bit for each dispatch key. */
#define KEY(t) (1 << ((t) * (ATTEMPTS + 1) + admission[t] - 1))
short removals;
/* org_state and queue_state: the leader's persisted cut. */
byte saved_in_flight;
short saved_removals;
/* org_config */
byte cap = CAP;

/* What only the observer knows -------------------------------------------------------------------- */

byte claims[TASKS];   /* how often a handler was handed the task */
byte finished[TASKS]; /* how often it was ended for good */
byte losses, youngest;
byte epoch_before, term_before; /* of the election that was committed last, if nothing was since */
bit only_elected;
bit dead[LEADERS]; /* this session has ended, and its process does not know it yet */
byte extended[TASKS]; /* the claim that was extended already; a handler that never ends proves nothing */
byte drawn; /* the last term drawn */
/* Who is like another is numbered in the order of the first appearance: the other orders are the same. */
bit stood, picked, claimed;
byte t_; /* of d_step loops */

#if TASKS == 1
#define IN_FLIGHT queued[0]
#define ANY_STAGED staged[0]
#elif TASKS == 2
#define IN_FLIGHT (queued[0] + queued[1])
#define ANY_STAGED (staged[0] || staged[1])
#else
#define IN_FLIGHT (queued[0] + queued[1] + queued[2])
#define ANY_STAGED (staged[0] || staged[1] || staged[2])
#endif
#define HOLDS(i, who) ((i) < TASKS && (staged_locked[(i) % TASKS] == (who) || queued_locked[(i) % TASKS] == (who) || lease_locked[(i) % TASKS] == (who)))
#define HOLDS_ROW(who) (HOLDS(0, who) || HOLDS(1, who) || HOLDS(2, who))
#define ELIGIBLE (ANY_STAGED && in_flight < cap)

/* Each rule stands on one line with its name: that is how the report finds it. */
inline check_places() {
  t_ = 0;
  do
  :: t_ < TASKS ->
     assert(staged[t_] + queued[t_] + ended[t_] == 1);                 /* RULE a task is in exactly one place */
     assert(finished[t_] <= 1);                                       /* RULE a task is finished once */
     assert(claims[t_] <= ATTEMPTS);                                  /* RULE no more attempts than allowed */
     assert(!queued[t_] || !claim[t_] || lease[t_] != NONE);          /* RULE a claimed task is leased */
     t_++
  :: else -> break
  od;
  t_ = 0
}

inline committed() { only_elected = 0; epoch_before = 0; term_before = 0; check_places() }

/* How many removals of `now` the cut `before` does not know. */
inline count_new(now, before, n) {
  n = 0; t_ = 0;
  do
  :: t_ < TASKS * (ATTEMPTS + 1) ->
     n = n + (((now) >> t_) & 1) - (((now) & (before)) >> t_ & 1);
     t_++
  :: else -> break
  od;
  t_ = 0
}

inline release_all(who) {
  t_ = 0;
  do
  :: t_ < TASKS ->
     if :: staged_locked[t_] == who -> staged_locked[t_] = NOBODY :: else -> skip fi;
     if :: queued_locked[t_] == who -> queued_locked[t_] = NOBODY :: else -> skip fi;
     if :: lease_locked[t_] == who -> lease_locked[t_] = NOBODY :: else -> skip fi;
     t_++
  :: else -> break
  od;
  if :: fence == who -> fence = NOBODY :: else -> skip fi;
  t_ = 0
}

#define ALIVE (!dead[me])
#ifdef REAP_UNLOCKED
#define REAPABLE(i) ((i) < TASKS && lease[(i) % TASKS] == EXPIRED)
#else
#define REAPABLE(i) ((i) < TASKS && lease[(i) % TASKS] == EXPIRED && lease_locked[(i) % TASKS] == NOBODY)
#endif

/* A replica: stands, is elected, ticks and keeps house. ---------------------------------------- */

proctype Leader(byte me) {
  byte my_epoch, my_term, in_flight, burst_max, n, t;
  short seen;  /* the removals that were settled in memory */
  bit acked;   /* the row that the reaper met is somebody's */

stand:
  /* A new session: nothing of the one before is remembered. */
end_stand:
  atomic {
    advisory == NOBODY && epoch < TERMS && (stood || me == 0);  /* try_lock */
    stood = 1;
    dead[me] = 0; advisory = me;
    my_epoch = 0; my_term = 0; in_flight = 0; burst_max = 0; seen = 0; n = 0; t = 0; acked = 0
  }

#ifdef MERGED_ELECTION
  /* The cut is read by the statement that waits for the lock. */
  atomic { in_flight = saved_in_flight; seen = saved_removals }
#endif
  /* elect: waits for the tick of the leader before, if one is under way. */
  if
  :: atomic { !ALIVE -> goto lost }
  :: atomic { ALIVE && fence == NOBODY -> fence = me }
  fi;
  if
  :: atomic { !ALIVE -> goto lost }
  :: atomic {  /* commit */
       ALIVE;
       committed();
       epoch_before = epoch; term_before = term; only_elected = 1;
#ifndef EPOCH_KEPT
       epoch++; drawn++; term = drawn;
#else
       if :: term == 0 -> epoch++; drawn++; term = drawn :: else -> skip fi;
#endif
       my_epoch = epoch; my_term = term;
       fence = NOBODY
     }
  fi;
#ifndef MERGED_ELECTION
  /* load: in statements of its own, after the commit. */
  if
  :: atomic { !ALIVE -> goto lost }
  :: atomic { ALIVE; in_flight = saved_in_flight; seen = saved_removals }
  fi;
#endif

look:
end_look:
  if
  :: atomic { !ALIVE -> goto lost }
  :: atomic {  /* feeds, outside any transaction: the difference to what was seen */
       ALIVE && removals != seen;
       count_new(removals, seen, n);
#ifdef SLOT_TWICE
       /* Once more what ended beside a transaction that was open then. */
       if :: n++ :: true -> skip fi;
#endif
       in_flight = (n < in_flight -> in_flight - n : 0); seen = removals; n = 0;
       goto look
     }
  :: atomic {  /* something is eligible; with nothing to change, a tick only reads. What ended since the
                * feeds is not known, nor with a hint, which is answered before they are read */
       ALIVE && ELIGIBLE;
       if
       :: staged[0] -> t = 0
#if TASKS > 1
       :: staged[1] && picked -> t = 1
#endif
#if TASKS > 2
       :: staged[2] && picked -> t = 2
#endif
       fi;
       picked = 1;
       goto tick
     }
  :: atomic {  /* lock_expired: FOR UPDATE SKIP LOCKED; a statement of its own */
       ALIVE && (REAPABLE(0) || REAPABLE(1) || REAPABLE(2));
       if
       :: REAPABLE(0) -> t = 0
       :: REAPABLE(1) -> t = 1
       :: REAPABLE(2) -> t = 2
       fi;
#ifndef REAP_UNLOCKED
       lease_locked[t] = me;
#endif
       n = lease_of[t];
       goto reap
     }
  fi;

reap:
  if
  :: atomic { !ALIVE -> goto lost }
  :: atomic {  /* reap: the rows of the claim, FOR UPDATE SKIP LOCKED; its own statement */
       ALIVE;
       if
       :: queued[t] && claim[t] == n && queued_locked[t] == NOBODY -> queued_locked[t] = me; acked = 0
       :: queued[t] && claim[t] == n && queued_locked[t] != NOBODY -> acked = 1
       :: else -> acked = 0
       fi
     }
  fi;
  if
  :: atomic { !ALIVE -> goto lost }
#ifdef REAP_UNLOCKED
  :: atomic {  /* who gives the task back holds the lease and waits for the row: a deadlock, and one is aborted */
       ALIVE && !FREE(lease_locked[t], me) -> release_all(me); t = 0; n = 0; acked = 0; goto look }
#endif
  :: atomic {  /* commit; a lease that somebody holds is waited for */
       ALIVE && FREE(lease_locked[t], me);
       if
       :: queued_locked[t] == me ->
          assert(lease[t] == EXPIRED);                                 /* RULE a task is taken back only from an expired lease */
          queued[t] = 0; queued_locked[t] = NOBODY; claim[t] = 0; removals = removals | KEY(t);
          if
          :: attempt[t] >= ATTEMPTS -> ended[t] = 1; finished[t]++
          :: else -> staged[t] = 1
          fi
       :: else -> skip
       fi;
       if
#ifndef LEASE_DROPPED
       /* A row that an open transaction holds keeps its lease: that transaction may yet roll back. */
       :: acked -> skip
#endif
       :: else -> if :: lease_of[t] == n -> lease[t] = NONE; lease_of[t] = 0; extended[t] = 0 :: else -> skip fi
       fi;
       if :: lease_locked[t] == me -> lease_locked[t] = NOBODY :: else -> skip fi;
       t = 0; n = 0; acked = 0;
       committed();
       goto look
     }
  fi;

tick:
#ifdef MERGED_FENCE
  /* The configuration is read by the statement that waits for the fence. */
  atomic { burst_max = cap }
#endif
  if
  :: atomic { !ALIVE -> goto lost }
  :: atomic {  /* fence: FOR UPDATE of (epoch, term); waits, then looks at that row again */
       ALIVE && fence == NOBODY;
       if
#if defined(NO_EPOCH_CHECK)
       :: true -> fence = me
#elif defined(TERM_IGNORED)
       :: epoch == my_epoch -> fence = me
#else
       :: epoch == my_epoch && term == my_term -> fence = me
#endif
       :: else -> goto resign  /* no row: somebody else leads */
       fi
     }
  fi;
#ifdef FENCE_APART
  atomic { if :: fence == me -> fence = NOBODY :: else -> skip fi }
#endif
#ifndef MERGED_FENCE
  if
  :: atomic { !ALIVE -> goto lost }
  :: atomic { ALIVE; burst_max = cap }  /* probe: a later statement, with a younger snapshot */
  fi;
#endif
  if
  :: atomic { !ALIVE -> goto lost }
  :: atomic { ALIVE && in_flight >= burst_max;  /* nothing is planned: commit of nothing */
       if :: fence == me -> fence = NOBODY :: else -> skip fi;
       t = 0; burst_max = 0; goto look }
  :: atomic {  /* admit: deletes from staging, waiting for whoever holds the row; inserts the row */
       ALIVE && in_flight < burst_max && FREE(staged_locked[t], me);
       if
       :: staged[t] -> staged_locked[t] = me
       :: else ->  /* fewer than were planned: roll back and plan again */
          if :: fence == me -> fence = NOBODY :: else -> skip fi;
          t = 0; burst_max = 0; goto look
       fi
     }
  fi;
  if
  :: atomic { !ALIVE -> goto lost }
  :: atomic {  /* commit: admission, tags, counts and snapshots at once */
       ALIVE;
       assert(my_epoch == epoch && my_term == term);                   /* RULE only the youngest term admits */
       staged[t] = 0; staged_locked[t] = NOBODY;
       queued[t] = 1; claim[t] = 0; admission[t]++;
       in_flight++;
       assert(IN_FLIGHT <= cap);                                       /* RULE no more in flight than burst_max */
       assert(my_term >= youngest);                                    /* RULE admissions never go back to an older term */
       youngest = my_term;
#ifndef COUNT_APART
       count_new(removals, seen, n);
       assert(in_flight == IN_FLIGHT + n);                             /* RULE the counts are what a recount finds */
       n = 0;
       saved_in_flight = in_flight; saved_removals = seen;
#endif
       if :: fence == me -> fence = NOBODY :: else -> skip fi;
       burst_max = 0; t = 0;
       committed()
     }
     if
     :: skip
     :: atomic { losses < LOSSES && epoch < TERMS;  /* committed, but the answer is lost: of unknown outcome */
          losses++;
#ifdef MEMORY_KEPT
          /* Goes on, over a new session, with the plan taken back. */
          in_flight--;
          goto look
#else
          if :: advisory == me -> advisory = NOBODY :: else -> skip fi;
          goto lost
#endif
        }
     fi
  fi;
#ifdef COUNT_APART
  if
  :: atomic { !ALIVE -> goto lost }
  :: atomic { ALIVE && my_epoch == epoch && my_term == term; saved_in_flight = in_flight; saved_removals = seen }
  :: atomic { ALIVE && (my_epoch != epoch || my_term != term) -> goto resign }
  fi;
#endif
  goto look;

resign:
  atomic { if :: advisory == me -> advisory = NOBODY :: else -> skip fi }
lost:
  /* The socket first, then all that is in memory. The server may have freed the lock long before. */
  atomic {
    if :: advisory == me -> advisory = NOBODY :: else -> skip fi;
    release_all(me);
    dead[me] = 0; my_epoch = 0; my_term = 0; in_flight = 0; burst_max = 0; seen = 0; n = 0; t = 0; acked = 0;
    goto stand
  }
}

/* A worker: claims one task, runs it, ends the claim in one of the ways there are, or forgets it. --- */

#define CLAIMABLE(i) (queued[i] && !claim[i] && (claimed || number == 0))

proctype Worker(byte number) {
  byte me = LEADERS + number;
  byte t, mine;

idle:
end_idle:
#ifdef CLAIM_UNLOCKED
  /* Picks a row without a lock; the update then waits for it and takes the row as it finds it. */
  atomic {
    if
    :: CLAIMABLE(0) -> t = 0
#if TASKS > 1
    :: CLAIMABLE(1) -> t = 1
#endif
#if TASKS > 2
    :: CLAIMABLE(2) -> t = 2
#endif
    fi;
    claimed = 1
  }
  atomic { queued_locked[t] == NOBODY;
    if :: queued[t] -> queued_locked[t] = me :: else -> t = 0; goto idle fi }
#else
  atomic {  /* claim: an unclaimed row that nobody holds, FOR NO KEY UPDATE SKIP LOCKED */
    if
    :: CLAIMABLE(0) && queued_locked[0] == NOBODY -> t = 0
#if TASKS > 1
    :: CLAIMABLE(1) && queued_locked[1] == NOBODY -> t = 1
#endif
#if TASKS > 2
    :: CLAIMABLE(2) && queued_locked[2] == NOBODY -> t = 2
#endif
    fi;
    claimed = 1; queued_locked[t] = me
  }
#endif
  if
  :: atomic {  /* autocommit: claimed and leased at once */
       claims[t]++; mine = claims[t];
       assert(lease[t] != VALID);                                      /* RULE two valid leases never overlap */
       assert(lease[t] == NONE);                                       /* RULE a lease is gone before the next begins */
       claim[t] = mine; queued_locked[t] = NOBODY;
#ifndef ATTEMPT_AT_FAILURE
       attempt[t]++;
#endif
#ifndef LEASE_APART
       lease[t] = VALID; lease_of[t] = mine;
       committed()
#endif
     }
  :: atomic {  /* dies before the commit: claims nothing */
       losses < LOSSES; losses++; queued_locked[t] = NOBODY; t = 0; goto idle
     }
  fi;
#ifdef LEASE_APART
  if
  :: atomic { lease[t] = VALID; lease_of[t] = mine; committed() }
  :: atomic { t = 0; mine = 0; check_places(); goto idle }
  fi;
#endif

handle:
  if
  :: goto ack
  :: goto nack
  :: goto forget
  :: atomic { extended[t] != mine && FREE(lease_locked[t], me) ->
       /* extend: waits for whoever holds the lease, then looks at its end again */
       if
#ifdef REVIVE
       :: lease_of[t] == mine && lease[t] != NONE ->
#else
       :: lease_of[t] == mine && lease[t] == VALID ->
#endif
          assert(lease[t] == VALID);                                   /* RULE an expired lease is never extended */
          lease_locked[t] = me
       :: else -> goto forget  /* lost: the handler is stopped */
       fi
     }
  fi;
  atomic {  /* autocommit: until then the end of before stands, and may pass */
    assert(claim[t] == mine && queued[t]);                             /* RULE what is extended is held by this claim */
    lease[t] = VALID; lease_locked[t] = NOBODY; extended[t] = mine;
    committed();
    goto handle
  }

ack:
  atomic {  /* finish: the row of this claim, waiting for whoever holds it */
    FREE(queued_locked[t], me);
    if
#ifdef ACK_BY_ID
    :: queued[t] -> queued_locked[t] = me
#else
    :: queued[t] && claim[t] == mine -> queued_locked[t] = me
#endif
    :: else -> goto forget  /* nothing ended: the claim is lost */
    fi;
    /* `closing`: SKIP LOCKED. In a transaction of the caller the lease is left to the reaper. */
    if
    :: lease_of[t] == mine && lease_locked[t] == NOBODY -> lease_locked[t] = me
    :: true -> skip
    fi;
  }
  if
  :: atomic {
       assert(claim[t] == mine);                                       /* RULE what is accepted carries the current claim */
       queued[t] = 0; queued_locked[t] = NOBODY; claim[t] = 0;
       removals = removals | KEY(t);
       ended[t] = 1; finished[t]++;
       if :: lease_locked[t] == me -> lease_locked[t] = NOBODY; lease[t] = NONE; lease_of[t] = 0; extended[t] = 0 :: else -> skip fi;
       committed()
     }
  :: atomic { release_all(me) }  /* the caller rolls back: the task is held as before, and then forgotten */
  fi;
  goto forget;

nack:
  /* lock_leases: waits for whoever holds the lease. A lease that is gone is no hindrance. */
  atomic { FREE(lease_locked[t], me);
    if :: lease_of[t] == mine -> lease_locked[t] = me :: else -> skip fi }
  atomic {  /* give_back: its own statement */
    FREE(queued_locked[t], me);
    if
    :: queued[t] && claim[t] == mine -> queued_locked[t] = me
    :: else -> if :: lease_locked[t] == me -> lease_locked[t] = NOBODY :: else -> skip fi; goto forget
    fi
  }
  if
  :: atomic {
       assert(claim[t] == mine);                                       /* RULE what is accepted carries the current claim */
       queued[t] = 0; queued_locked[t] = NOBODY; claim[t] = 0;
#ifdef ATTEMPT_AT_FAILURE
       attempt[t]++;
#endif
#ifndef SLOT_NEVER
       removals = removals | KEY(t);
#endif
       if
       :: attempt[t] >= ATTEMPTS -> ended[t] = 1; finished[t]++
       :: else -> staged[t] = 1
       fi;
       if :: lease_locked[t] == me -> lease_locked[t] = NOBODY; lease[t] = NONE; lease_of[t] = 0; extended[t] = 0 :: else -> skip fi;
       committed()
     }
  :: atomic { release_all(me) }
  fi;

forget:
  /* Also what a crash leaves: nothing in memory, and the tables as they are. */
  atomic { t = 0; mine = 0; goto idle }
}

/* Time and misfortune. ------------------------------------------------------------------------- */

proctype World() {
  byte l;
end_world:
  do
  :: atomic { lease[0] == VALID -> lease[0] = EXPIRED }
#if TASKS > 1
  :: atomic { lease[1] == VALID -> lease[1] = EXPIRED }
#endif
#if TASKS > 2
  :: atomic { lease[2] == VALID -> lease[2] = EXPIRED }
#endif
  :: atomic {  /* the session of whoever holds the advisory lock is ended: crash, timeout, network */
       losses < LOSSES && advisory != NOBODY && epoch < TERMS ->
       losses++; l = advisory; dead[l] = 1; advisory = NOBODY; release_all(l); l = 0
     }
  :: atomic {  /* behind a transaction pooler the lock is lost and the session goes on */
       losses < LOSSES && advisory != NOBODY && epoch < TERMS ->
       losses++; advisory = NOBODY
     }
  :: atomic {  /* asynchronous failover that loses an election just committed: the epoch comes again */
       losses < LOSSES && only_elected && epoch < TERMS ->
       losses++; only_elected = 0; epoch = epoch_before; term = term_before; epoch_before = 0; term_before = 0; advisory = NOBODY;
       /* Who was in a transaction is told so; who was between two goes on, behind a pooler. */
       l = 0;
       do
       :: l < LEADERS -> if :: fence == l || HOLDS_ROW(l) -> dead[l] = 1; release_all(l) :: else -> skip fi; l++
       :: else -> break
       od;
       l = 0
     }
  od
}

/* Lowers burst_max once, at any moment: `config_changed` takes the fence at commit. */
proctype Operator() {
end_operator:
  atomic { fence == NOBODY -> fence = OPERATOR }
  atomic { cap = 1; fence = NOBODY; committed() }
}

/* Whatever happened: once nothing can move any more, every task has ended and no lease is left. */
#ifndef LIVENESS
proctype Judge() {
end_judge:
  atomic {
    timeout;
    t_ = 0;
    do
    :: t_ < TASKS ->
       assert(ended[t_]);                                              /* RULE every task ends */
       assert(lease[t_] == NONE);                                      /* RULE no lease is left */
       t_++
    :: else -> break
    od;
    t_ = 0
  }
}
#else
/* Under weak fairness every task ends, and so was admitted: for each cycle, not only where all rests. */
ltl every_task_ends { <> (ended[0] && ended[TASKS - 1]) }
#endif

init {
  atomic {
    t_ = 0;
    do
    :: t_ < TASKS ->
       staged[t_] = 1; staged_locked[t_] = NOBODY; queued_locked[t_] = NOBODY; lease_locked[t_] = NOBODY;
       lease[t_] = NONE;
       t_++
    :: else -> break
    od;
    t_ = 0;
    do
    :: t_ < LEADERS -> run Leader(t_); t_++
    :: else -> break
    od;
    t_ = 0;
    do
    :: t_ < WORKERS -> run Worker(t_); t_++
    :: else -> break
    od;
    t_ = 0;
    run World(); run Operator();
#ifndef LIVENESS
    run Judge()
#endif
  }
}
