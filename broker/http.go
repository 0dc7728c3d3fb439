package broker

import (
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering"
)

// httpServer answers health, metrics, profiles and what `firn tier status`
// and `firn cluster` ask. It is for operators: bind it where only they can reach it.
func (b *Broker) httpServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := b.failure(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		switch {
		case b.failure() != nil:
			http.Error(w, b.failure().Error(), http.StatusServiceUnavailable)
		case !b.ready.Load():
			http.Error(w, "not ready: starting or stopping", http.StatusServiceUnavailable)
		case b.meta.Fenced():
			http.Error(w, "not ready: the lease on this broker's registration is lost", http.StatusServiceUnavailable)
		default:
			w.Write([]byte("ready\n"))
		}
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		metrics.WritePrometheus(w, true)
	})
	mux.HandleFunc("GET /v1/tier/{topic}", b.serveTier)
	mux.HandleFunc("GET /v1/cluster", b.serveCluster)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
}

// tierStatus is what tiering knows of a partition, completed by its log.
type tierStatus struct {
	tiering.PartitionStatus
	LocalStart    record.Offset `json:"localStart"` // first offset on local disk
	LocalBytes    int64         `json:"localBytes"` // the active segment counted
	HighWatermark record.Offset `json:"highWatermark"`
	LogEnd        record.Offset `json:"logEnd"`
}

// serveTier answers with the local and remote ranges of a topic.
func (b *Broker) serveTier(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("topic")
	if b.meta.Image().Topics[name] == nil {
		writeJSON(w, http.StatusNotFound, map[string]string{"error": "no topic is called " + name})
		return
	}
	statuses := []tierStatus{}
	for _, st := range b.tier.Status(name) {
		p := b.topics.Get(name, st.Partition)
		if p == nil {
			continue
		}
		s := p.State()
		statuses = append(statuses, tierStatus{st, s.LocalStart, s.LocalBytes, s.HighWatermark, s.LogEnd})
	}
	answer := map[string]any{"topic": name, "store": b.storeURL, "partitions": statuses}
	if why := b.storeErr.Load(); why != nil {
		answer["storeError"] = *why // found at the start; later errors are the partitions'
	}
	writeJSON(w, http.StatusOK, answer)
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v) // an error here is the client's, which went away
}
