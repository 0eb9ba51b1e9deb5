// Package integration holds tests of podcni with the CNI reference plugins and
// a real kernel, in a sandbox: make integration. PODCNI_PLUGINS names the
// directory of the plugins; without it they are skipped.
package integration
