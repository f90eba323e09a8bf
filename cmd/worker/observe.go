package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"

	"statusq/internal/dispatch"
	"statusq/internal/kintone"
)

// logging is how the program talks about itself, on standard error.
type logging struct {
	LogFormat string `default:"auto" enum:"auto,text,json" env:"STATUSQ_LOG_FORMAT" help:"auto (text on a terminal, JSON elsewhere), text or json."`
	LogLevel  string `default:"info" enum:"debug,info,warn,error" env:"STATUSQ_LOG_LEVEL" help:"debug, info, warn or error."`
}

func (l logging) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.LogLevel)); err != nil {
		level = slog.LevelInfo
	}
	if l.LogFormat == "text" || l.LogFormat == "auto" && isTerminal(w) {
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: time.TimeOnly, NoColor: !isTerminal(w)}))
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// observer writes a lane's events to the log: what went well at debug, what an operator should know above.
func observer(lg *slog.Logger) func(dispatch.Event) {
	return func(e dispatch.Event) {
		level := slog.LevelInfo
		attrs := []slog.Attr{slog.String("site", e.Site)}
		if e.App != 0 {
			attrs = append(attrs, slog.Int64("app", e.App))
		}
		if e.Request != "" {
			attrs = append(attrs, slog.String("request", e.Request))
		}
		switch e.Kind {
		case dispatch.EventSettled:
			level = slog.LevelDebug
			if e.Dead+e.Unknown > 0 {
				level = slog.LevelWarn
			}
			attrs = append(attrs, slog.Int("applied", e.Applied), slog.Int("already", e.Already), slog.Int("parked", e.Parked),
				slog.Int("dead", e.Dead), slog.Int("unknown", e.Unknown))
		case dispatch.EventUnclear, dispatch.EventHalted, dispatch.EventUnserved, dispatch.EventDeposed, dispatch.EventTrouble:
			level = slog.LevelWarn
		}
		if e.Reason != "" {
			attrs = append(attrs, slog.String("reason", e.Reason))
		}
		if e.Detail != "" {
			attrs = append(attrs, slog.String("detail", e.Detail))
		}
		if !e.Until.IsZero() {
			attrs = append(attrs, slog.Time("until", e.Until))
		}
		lg.LogAttrs(context.Background(), level, string(e.Kind), attrs...)
	}
}

// gateObserver says when a site's gate shuts or opens.
func gateObserver(lg *slog.Logger, site string) func(kintone.GateState) {
	type face struct {
		breaker kintone.BreakerState
		halted  bool
	}
	open := face{breaker: kintone.BreakerClosed}
	last := open
	return func(s kintone.GateState) {
		now := face{s.Breaker, s.Halted}
		if now == last {
			return
		}
		last = now
		level := slog.LevelWarn
		if now == open {
			level = slog.LevelInfo
		}
		lg.LogAttrs(context.Background(), level, "gate", slog.String("site", site), slog.String("breaker", string(s.Breaker)),
			slog.Bool("halted", s.Halted), slog.String("why", s.Why))
	}
}
